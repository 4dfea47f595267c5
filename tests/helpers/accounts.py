"""Accounts of stages as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from asrswitch.stages import COMPUTE_KINDS, STAGES, Account, Stage

counts = st.integers(0, 10**15)
stages = st.builds(
    Stage,
    name=st.sampled_from(STAGES),
    ms=st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000),
    operations=st.dictionaries(st.sampled_from(COMPUTE_KINDS), counts),
    bytes=counts,
)
accounts = st.builds(
    Account,
    stages=st.lists(stages, unique_by=lambda stage: stage.name).map(tuple),
    audio_tokens=counts,
    prompt_tokens=counts,
    generated_tokens=counts,
    audio_s=st.integers(0, 10**6).map(lambda hundredths: hundredths / 100),
)
