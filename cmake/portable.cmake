# A library for other machines than this one, as wheels promise: it asks for glibc 2.28 (manylinux_2_28) though a later
# one built it, and brings the C++ library, whose version on the other machine may be older than what g++ here needs.
# That one's own calls of the C library are the reason for wrapping at the link; portable.cpp has the other half.

function(make_portable library)
  include(CheckLinkerFlag)
  include(CheckCXXSymbolExists)
  check_cxx_symbol_exists(__GLIBC__ features.h chatllm_has_glibc)
  check_linker_flag(CXX -static-libstdc++ chatllm_has_static_cxx)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR NOT chatllm_has_glibc OR NOT chatllm_has_static_cxx)
    message(STATUS "libchatllm will need this machine's C and C++ libraries, or later ones")
    return()
  endif()
  target_sources(${library} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/cmake/portable.cpp)
  foreach(name exp fstat fstat64 pthread_attr_setstack pthread_create pthread_join pthread_once pthread_sigmask)
    target_link_options(${library} PRIVATE -Wl,--wrap=${name})
  endforeach()
  # Before 2.34 threads are in a library of their own, which later ones keep, empty, for what was linked earlier.
  target_link_options(${library} PRIVATE -static-libstdc++ -Wl,--gc-sections
    -Wl,--push-state,--no-as-needed,-l:libpthread.so.0,--pop-state)
endfunction()
