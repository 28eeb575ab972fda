"""Figures as inline SVG: shapes and text alone, colours by class names that the page's style gives.

A figure is as wide as 360 units whatever the screen, so that text is readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from experiments import report

WIDTH = 360


def element(tag: str, *inside, **attributes) -> ElementTree.Element:
  """An element; `inside` are elements, lists of them, or text. `class_` is the attribute class."""
  names = {k.rstrip('_').replace('_', '-'): str(v) for k, v in attributes.items()}
  made = ElementTree.Element(tag, names)
  for x in inside:
    for one in x if isinstance(x, (list, tuple)) else [x]:
      if isinstance(one, ElementTree.Element):
        made.append(one)
      elif len(made):
        made[-1].tail = (made[-1].tail or '') + str(one)
      else:
        made.text = (made.text or '') + str(one)
  return made


class Point(NamedTuple):
  """A mark of `staircase`.

  Attributes:
    name: of the model.
    nbytes: where it stands from left (many) to right (few).
    auc: its height.
    spread: half of the line through it.
    rung: whether the stairs lead over it.
  """

  name: str
  nbytes: float
  auc: float
  spread: float
  rung: bool


def staircase(points: Sequence[Point], best: float | None = None) -> ElementTree.Element:
  """AUC against bytes on a log scale, fewer to the right; a number for each point.

  Args:
    points: in the order of their numbers, 1 first.
    best: AUC of a dotted line, where one that no model can pass is known and near.
  """
  left, right, top, bottom = 46, WIDTH - 14, 14, 214
  low = min(p.auc - p.spread for p in points)
  high = max(p.auc + p.spread for p in points)
  pad = max(0.12 * (high - low), 1e-5)
  low, high = low - pad, high + pad
  logs = [math.log10(max(p.nbytes, 1)) for p in points]
  most, least = max(logs) + 0.15, min(logs) - 0.15

  def x(nbytes):
    return left + (most - math.log10(max(nbytes, 1))) / (most - least) * (right - left)

  def y(auc):
    return bottom - (auc - low) / (high - low) * (bottom - top)

  parts = [*_heights(low, high, y, left, right), *_decades(least, most, x, top, bottom)]
  if best is not None and low < best < high:
    parts.append(_line(left, y(best), right, y(best), 'best'))
  rungs = [p for p in points if p.rung]
  steps = [f'M{x(rungs[0].nbytes):.1f} {y(rungs[0].auc):.1f}']
  steps += [f'H{x(p.nbytes):.1f}V{y(p.auc):.1f}' for p in rungs[1:]]
  parts.append(element('path', d=''.join(steps), class_='stairs'))
  taken: list[tuple[float, float]] = [(x(p.nbytes), y(p.auc)) for p in points]
  for i, p in enumerate(points):
    at, kind = (x(p.nbytes), y(p.auc)), 'rung' if p.rung else 'aside'
    if p.spread:
      parts.append(_line(at[0], y(p.auc - p.spread), at[0], y(p.auc + p.spread), f'error {kind}'))
    label = _free(at, taken, (left, right, top, bottom))
    taken.append(label)
    parts.append(_line(*at, *label, 'leader'))
    title = element('title', f'{p.name}: AUC {p.auc:.5f}, {report.size(p.nbytes)}')
    parts.append(element('circle', title, cx=f'{at[0]:.1f}', cy=f'{at[1]:.1f}', r=4, class_=kind))
    parts.append(_text(label[0], label[1] + 4, i + 1, 'number', 'middle'))
  parts.append(_text((left + right) / 2, bottom + 32, 'bytes that serving holds', 'axis', 'middle'))
  return _svg(bottom + 40, 'Test AUC against serving bytes', parts)


def _free(at, taken, box):
  """A place for a label near a point, where no point and no label is."""
  left, right, top, bottom = box
  found = []
  for radius in (13, 18, 24, 32):
    for turn in range(12):
      angle = math.pi * (turn / 6 - 0.5)
      x, y = at[0] + radius * math.cos(angle), at[1] + radius * math.sin(angle)
      if left + 6 < x < right - 4 and top < y < bottom - 6:
        found.append((x, y))
        if all(math.hypot(x - a, y - b) > 11 for a, b in taken):
          return x, y
  return found[0] if found else at


def _heights(low, high, y, left, right):
  step = 10 ** math.floor(math.log10(high - low))
  step = next(s for s in (step * f for f in (0.1, 0.2, 0.5, 1, 2)) if (high - low) / s < 7)
  digits = max(0, -math.floor(math.log10(step)))
  for i in range(math.ceil(low / step), math.floor(high / step) + 1):
    yield _line(left, y(i * step), right, y(i * step), 'grid')
    yield _text(left - 4, y(i * step) + 4, f'{i * step:.{digits}f}', 'axis', 'end')


def _decades(least, most, x, top, bottom):
  marks = range(math.ceil(least), math.floor(most) + 1)
  values = [10**i for i in marks] if len(marks) > 2 else _few(least, most)
  for value in values:
    yield _line(x(value), top, x(value), bottom, 'grid')
    yield _text(x(value), bottom + 15, report.size(value), 'axis', 'middle')


def _few(least, most):
  """Round numbers, where few decades are shown."""
  first = math.floor(least)
  found = [f * 10**i for i in range(first, math.ceil(most) + 1) for f in (1, 2, 5)]
  return [value for value in found if least < math.log10(value) < most]


class Bar(NamedTuple):
  """A row of `bars`.

  Attributes:
    name: over the bars.
    values: a bar for each; None where there is nothing.
    text: at the end of the line of the name.
  """

  name: str
  values: tuple[float | None, ...]
  text: str


def bars(
  rows: Sequence[Bar], title: str, *, kinds: Sequence[str] = ('before', 'after'), log: bool = False
) -> ElementTree.Element:
  """Horizontal bars, their name above them: long names stay readable on a narrow screen.

  Args:
    rows: from above.
    title: for those who cannot see it.
    kinds: classes of the bars of a row.
    log: whether a bar's length is the logarithm of its value (from 1); else the value.
  """

  def length(value):
    return math.log10(max(value, 1)) if log else value

  most = max((length(v) for row in rows for v in row.values if v is not None), default=1) or 1
  parts, at = [], 4
  for row in rows:
    parts.append(_text(2, at + 11, _cut(row.name, 52 - len(row.text)), 'name', 'start'))
    parts.append(_text(WIDTH - 2, at + 11, row.text, 'value', 'end'))
    at += 16
    for kind, value in zip(kinds, row.values, strict=True):
      if value is not None:
        width = max(1.5, length(value) / most * (WIDTH - 4))
        parts.append(element('rect', x=2, y=at, width=f'{width:.1f}', height=6, rx=2, class_=kind))
      at += 8
    at += 6
  return _svg(at, title, parts)


def _cut(text, most):
  return text if len(text) <= most else f'{text[: most - 1]}…'


def _svg(height, title, parts):
  return element(
    'svg', element('title', title), parts,
    viewBox=f'0 0 {WIDTH} {height:g}', role='img', width='100%',
  )  # fmt: skip


def _line(x1, y1, x2, y2, kind):
  ends = {'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2}
  return element('line', **{k: f'{v:.1f}' for k, v in ends.items()}, class_=kind)


def _text(x, y, text, kind, anchor):
  return element('text', text, x=f'{x:.1f}', y=f'{y:.1f}', class_=kind, text_anchor=anchor)
