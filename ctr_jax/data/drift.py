r"""Clicks of a stream in which values come and go and click weights turn; its truth is known.

It is a `synthetic.Synthetic`, of the same effects, whose days are equally long, and in which

  arriving   a field has places, drawn by its power law; each place is held by one value after the
             other. A share `turnover` of the places gets a new value each day, and a value that
             goes fades over `fade` days: a sample's share of the new one grows meanwhile.
  late       a field is missing, and tells of nothing, before its first day: one that was added.

Effects are hashes of values, so that a new value has effects that nothing tells of before it is
seen; what it is grouped by (its `of`) is known. Rows of arriving fields are in order of arrival,
not of frequency: row = place + places · how many values the place has had before.

  source = drift.Drift(drift.Spec(seed=1))
  drift.best_by_day(source)                     # what no model can beat, day by day
"""

import dataclasses
import math

import numpy as np

from ctr_jax.data import draws, synthetic
from ctr_jax.data.synthetic import Field

_DAYS = 10
_DAY = 24_000
# The day from which on the late field is there, from 0.
LATE = 5


def generations(turnover: float, days: int, fade: float) -> int:
  """How many values a place can have in so many days."""
  return 1 + math.ceil(turnover * (days - 1 + fade))


def _arriving(name, places, turnover, **effects):
  """A field with room for every value that its places will have by the default's days and fade."""
  return Field(name, values=places * generations(turnover, _DAYS, 2.0), **effects)


_FIELDS = (
  _arriving('user', 3_000, 0.05, exponent=0.8, main=0.5),
  _arriving('item', 1_200, 0.1, exponent=0.9, main=0.6, drift=0.3),
  Field('category', values=50, exponent=0.8, of='item', main=0.3),
  _arriving('campaign', 200, 0.2, exponent=0.8, main=0.4, drift=0.3),
  Field('query', values=1_000, exponent=1.0, main=0.4, drift=0.2),
  Field('page', values=100, exponent=0.8, main=0.3, drift=0.3),
  Field('device', values=8, exponent=0.7, main=0.2),
  Field('slot', values=6, exponent=0.5, missing=0.0, main=0.35),
  Field('price', 'numeric', missing=0.05, main=-0.35),
  Field('badge', values=100, exponent=0.7, main=0.6),
)
_TURNOVER = (('user', 0.05), ('item', 0.1), ('campaign', 0.2))
_PAIRS = (('user', 'category', 0.4), ('page', 'category', 0.5))


@dataclasses.dataclass(frozen=True)
class Spec(synthetic.Spec):
  """What a drifting source is made of, beside `synthetic.Spec`.

  Attributes:
    arriving: (field, share of its places that get a new value each day). `Field.values` are all
      that there will be.
    late: (field, its first day, from 0).
    fade: days in which a value goes.
  """

  name: str = 'synthetic_drift'
  samples: tuple[int, int, int] = ((_DAYS - 2) * _DAY, _DAY, _DAY)
  days: int = _DAYS
  fields: tuple[Field, ...] = _FIELDS
  pairs: tuple[tuple[str, str, float], ...] = _PAIRS
  crosses: tuple[tuple[str, str, float], ...] = (('slot', 'page', 0.35),)
  bias: float = -1.2
  turn: float = 40.0
  arriving: tuple[tuple[str, float], ...] = _TURNOVER
  late: tuple[tuple[str, int], ...] = (('badge', LATE),)
  fade: float = 2.0

  def __post_init__(self):
    super().__post_init__()
    fields = {field.name: field for field in self.fields}
    for name, turnover in self.arriving:
      field, most = fields.get(name), generations(turnover, self.days, self.fade)
      if field is None or field.kind != 'id' or field.of or field.values < most:
        raise ValueError(
          f'Spec {self.name!r}: the arriving field {name!r} must be one of kind "id", of no other, '
          f'with at least {most} values: one for each that a place has in {self.days} days.'
        )
    for name, _ in self.late:
      if name not in fields or fields[name].kind != 'id' or fields[name].drift:
        raise ValueError(
          f'Spec {self.name!r}: the late field {name!r} must be one of kind "id" without drift.'
        )
      if any(name in (*x[:2],) for x in (*self.pairs, *self.crosses)):
        raise ValueError(f'Spec {self.name!r}: the late field {name!r} can be in no pair or cross.')


def small(seed: int = 0, day: int = 400) -> Spec:
  """Six short days with one field of each role; for tests."""
  fields = (
    Field('user', values=100 * generations(0.2, 6, 1.0), exponent=0.8, main=0.7),
    Field('item', values=60 * generations(0.3, 6, 1.0), exponent=0.8, main=0.6, drift=0.3),
    Field('category', values=10, of='item', main=0.4),
    Field('price', 'numeric', missing=0.05, main=-0.5),
    Field('badge', values=10, exponent=0.4, main=0.8),
  )
  return Spec(
    'drift_small', seed, (4 * day, day, day), 6, fields, (('user', 'category', 0.4),), (),
    arriving=(('user', 0.2), ('item', 0.3)), late=(('badge', 3),), fade=1.0,
  )  # fmt: skip


class Drift(synthetic.Synthetic):
  """A Source of a stream that drifts; see the module.

  Attributes: as `synthetic.Synthetic`; `spec` is a `Spec`.
  """

  def __init__(self, spec: Spec | None = None):
    super().__init__(Spec() if spec is None else spec)

  def _made(self, rows):
    return _Rows(self.spec, rows)


class _Rows(synthetic.Rows):
  """Some rows, with fields that arrive and fields that are late."""

  def __init__(self, spec: Spec, rows: np.ndarray):
    super().__init__(spec, rows)
    self._turnover, self._late, self._places = dict(spec.arriving), dict(spec.late), {}
    for name, turnover in spec.arriving:
      field = self._fields[name]
      self._places[name] = field.values // generations(turnover, spec.days, spec.fade)
      # What is drawn is a place; which value holds it is told by the day.
      self._fields[name] = dataclasses.replace(field, values=self._places[name])

  def _make(self, name: str) -> np.ndarray:
    made = super()._make(name)
    if name in self._late:
      return np.where(self._there(name), made, 0).astype(np.int32)
    if name not in self._turnover:
      return made
    # Places change hands at times of their own; near that time some samples are ahead.
    phase = draws.uniform(draws.hashed(self._key('phase', name), made))
    time = self.column('day') + self._spec.fade * self._uniform('ahead', name)
    before = np.floor(self._turnover[name] * time + phase).astype(np.int32)
    return np.where(made > 0, made + np.int32(self._places[name]) * before, 0).astype(np.int32)

  def _main(self, field: Field) -> np.ndarray:
    effect = super()._main(field)
    return np.where(self._there(field.name), effect, 0.0) if field.name in self._late else effect

  def _there(self, name):
    return self.column('day') >= self._late[name]


def best_by_day(source: synthetic.Synthetic) -> list[dict[str, float]]:
  """AUC and log loss of the true probability, of each day: what no model can beat but by chance."""
  names = ('label', 'probability', 'day')
  parts = [source.read(s, names, 0, source.num_samples(s)) for s in ('train', 'valid', 'test')]
  found = {name: np.concatenate([part[name] for part in parts]) for name in names}
  days = range(source.spec.days)
  return [
    synthetic.best_of({name: found[name][found['day'] == day] for name in names}) for day in days
  ]
