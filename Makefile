# Tests of what is shipped, on a Debian that has nothing else; as root. The rest: see CONTRIBUTING.md.
.PHONY: image-test wheel-test

image-test: # needs debootstrap and buildah
	python3 tests/image/check_image.py

wheel-test: # needs debootstrap, g++ and python3-venv
	python3 tests/image/check_wheel.py
