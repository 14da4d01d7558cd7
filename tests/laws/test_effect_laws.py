"""returns' own laws hold for `Effect`: functor, applicative, monad, and those of its IO and Result interfaces."""

from returns.contrib.hypothesis.laws import check_all_laws

from fnlamp.effect import Effect

check_all_laws(Effect, settings_kwargs={"max_examples": 30, "deadline": None})
