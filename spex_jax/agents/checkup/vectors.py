"""Run in a sandbox: a subset of SVG, to pixels, without a library of C's.

This file is a program of its own, sent as text to `sandbox`: it imports nothing
of the package, and runs nowhere else.

Known: svg (viewBox, width, height), g, rect, circle, ellipse, line, polyline,
polygon, path (all commands), transforms, colours, opacity, style attributes;
of a gradient its first colour. Text, titles and style sheets are passed over;
what else there is, is an error. Holes are even-odd whatever is asked.
"""

import base64
import math
import re
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
from PIL import Image, ImageColor, ImageDraw

_FINE = 4  # Times finer it is drawn, before it is scaled down.
_STEPS = 24  # Pieces of a curve.
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_PASSED = {
  "title", "desc", "metadata", "style", "text", "defs", "linearGradient",
  "radialGradient",
}  # fmt: skip
_INHERITED = (
  "fill", "stroke", "stroke-width", "opacity", "fill-opacity",
  "stroke-opacity",
)  # fmt: skip


def draw(request: str) -> str:
  """The pixels of an SVG, packed.

  Args:
    request: the side of the picture in pixels, a line; then SVG.

  Raises:
    ValueError: no XML, another outermost element than svg, or a size that is
      not above 0.
  """
  side, _, text = request.partition("\n")
  size = int(side) * _FINE
  try:
    root = ElementTree.fromstring(text.strip())
  except ElementTree.ParseError as error:
    raise ValueError(f"no XML: {error}") from error
  if _tag(root) != "svg":
    raise ValueError(f"the outermost element is {_tag(root)}, not svg")
  box = _numbers(root.get("viewBox", "")) or [
    0, 0, *(_length(root.get(name), 100.0) for name in ("width", "height"))
  ]  # fmt: skip
  if len(box) != 4 or not min(box[2:]) > 0:
    raise ValueError(f"viewBox or width and height must be above 0: {box}")
  scale = size / max(box[2:])
  x, y = ((size - scale * length) / 2 for length in box[2:])
  frame = np.array([
    [scale, 0, x - scale * box[0]], [0, scale, y - scale * box[1]], [0, 0, 1]
  ])  # fmt: skip
  picture = Image.new("RGBA", (size, size), "white")
  gradients = {}
  for each in root.iter():
    if _tag(each).endswith("Gradient") and len(each):
      stop = _style(each[0], {}).get("stop-color", "black")
      gradients[f"url(#{each.get('id')})"] = stop
  picture = _drawn(root, picture, frame, {}, gradients)
  small = picture.convert("RGB").resize((int(side),) * 2, Image.Resampling.BOX)
  return base64.b64encode(zlib.compress(small.tobytes())).decode()


def _tag(element):
  return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _numbers(text):
  return [float(found) for found in _NUMBER.findall(text)]


def _length(text, default):
  found = _numbers(text or "")
  return found[0] if found else default


def _style(element, above):
  own = dict(above)
  pairs = [part.split(":", 1) for part in element.get("style", "").split(";")]
  given = dict(element.attrib)
  given |= {p[0].strip(): p[1].strip() for p in pairs if len(p) == 2}
  for name in (*_INHERITED, "stop-color"):
    if name not in given or given[name] == "inherit":
      continue
    own[name] = given[name]
    if name.endswith("opacity"):
      own[name] = _length(given[name], 1.0) * above.get(name, 1.0)
  return own


def _drawn(element, picture, frame, above, gradients):
  tag = _tag(element)
  if tag in _PASSED or not tag:
    return picture
  frame = frame @ _transform(element.get("transform", ""))
  style = _style(element, above)
  if tag in ("svg", "g"):
    for child in element:
      picture = _drawn(child, picture, frame, style, gradients)
    return picture
  if tag not in _SHAPES:
    known = ", ".join(["g", *_SHAPES])
    raise ValueError(f"no element {tag}; there are {known}")
  lines = [
    (np.c_[np.array(p, float), np.ones(len(p))] @ frame.T)[:, :2]
    for p in _SHAPES[tag](element)
    if len(p) > 1
  ]
  wide = _length(style.get("stroke-width"), 1.0)
  wide *= abs(np.linalg.det(frame[:2, :2])) ** 0.5
  fill = "none" if tag == "line" else style.get("fill", "black")
  for what, paint in (("fill", fill), ("stroke", style.get("stroke", "none"))):
    paint = gradients.get(paint, paint)
    if paint in ("none", "transparent"):
      continue
    colour = ImageColor.getrgb(paint)[:3]
    alpha = style.get("opacity", 1.0) * style.get(f"{what}-opacity", 1.0)
    mask = Image.new("1", picture.size)
    for line in lines:
      part = Image.new("1", picture.size)
      pen = ImageDraw.Draw(part)
      points = [tuple(point) for point in line.tolist()]
      if what == "stroke":
        pen.line(points, fill=1, width=max(1, round(wide)), joint="curve")
        mask = Image.fromarray(np.asarray(mask) | np.asarray(part))
      else:
        pen.polygon(points, fill=1)
        mask = Image.fromarray(np.asarray(mask) ^ np.asarray(part))
    cover = np.asarray(mask) * np.uint8(round(255 * min(max(alpha, 0), 1)))
    layer = Image.new("RGBA", picture.size, colour)
    layer.putalpha(Image.fromarray(cover.astype(np.uint8)))
    picture = Image.alpha_composite(picture, layer)
  return picture


def _transform(text):
  whole = np.eye(3)
  for name, inside in re.findall(r"(\w+)\s*\(([^)]*)\)", text):
    v = _numbers(inside)
    one = np.eye(3)
    if name == "matrix" and len(v) == 6:
      one[:2] = np.array(v).reshape(3, 2).T
    elif name == "translate" and v:
      one[:2, 2] = [v[0], v[1] if len(v) > 1 else 0]
    elif name == "scale" and v:
      one[0, 0], one[1, 1] = v[0], v[-1]
    elif name == "rotate" and v:
      cos, sin = math.cos(math.radians(v[0])), math.sin(math.radians(v[0]))
      one[:2, :2] = [[cos, -sin], [sin, cos]]
      if len(v) == 3:
        middle = np.array(v[1:])
        one[:2, 2] = middle - one[:2, :2] @ middle
    elif name in ("skewX", "skewY") and v:
      one[(0, 1) if name == "skewX" else (1, 0)] = math.tan(math.radians(v[0]))
    else:
      raise ValueError(f"no transform {name}({inside})")
    whole = whole @ one
  return whole


def _rect(e):
  x, y, w, h = (_length(e.get(n), 0.0) for n in ("x", "y", "width", "height"))
  return [[(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]]


def _ellipse(e):
  x, y = _length(e.get("cx"), 0.0), _length(e.get("cy"), 0.0)
  r = _length(e.get("r"), 0.0)
  a, b = _length(e.get("rx"), r), _length(e.get("ry"), r)
  turns = np.linspace(0, 2 * np.pi, 2 * _STEPS + 1)
  return [list(zip(x + a * np.cos(turns), y + b * np.sin(turns)))]


def _line(e):
  x, y, u, v = (_length(e.get(n), 0.0) for n in ("x1", "y1", "x2", "y2"))
  return [[(x, y), (u, v)]]


def _polyline(e):
  v = _numbers(e.get("points", ""))
  return [list(zip(v[::2], v[1::2]))]


def _polygon(e):
  return [points + points[:1] for points in _polyline(e)]


_SIZES = dict(M=2, L=2, H=1, V=1, C=6, S=4, Q=4, T=2, A=7, Z=0)


def _path(e):
  lines, at, last, kind = [], np.zeros(2), np.zeros(2), ""
  for name, inside in re.findall(
    r"([MmLlHhVvCcSsQqTtAaZz])([^MmLlHhVvCcSsQqTtAaZz]*)", e.get("d", "")
  ):
    upper, values = name.upper(), _numbers(inside)
    size = _SIZES[upper]
    if size and (not values or len(values) % size):
      raise ValueError(f"path: {name} takes {size} numbers, not {len(values)}")
    for start in range(0, max(len(values), 1), max(size, 1)):
      v = values[start : start + size]
      base = at if name.islower() else np.zeros(2)
      if upper == "Z":
        if lines:
          lines[-1].append(lines[-1][0])
          at = np.array(lines[-1][0])
        kind = upper
        continue
      if upper == "M" and start == 0:
        at = base + v
        lines.append([tuple(at)])
        kind = upper
        continue
      if not lines or kind == "Z":
        lines.append([tuple(at)])
      if upper == "A":
        points, end = _arc(at, v, base + v[5:]), base + v[5:]
      elif upper == "H":
        end = np.array([base[0] + v[0], at[1]])
        points = [end]
      elif upper == "V":
        end = np.array([at[0], base[1] + v[0]])
        points = [end]
      else:
        ends = base + np.array(v).reshape(-1, 2)
        smooth = {"S": "CS", "T": "QT"}.get(upper, "")
        if smooth:
          first = 2 * at - last if kind in smooth else at
          ends = np.concatenate([[first], ends])
        end = ends[-1]
        points = _bezier(np.concatenate([[at], ends]))
        last = ends[-2] if len(ends) > 1 else end
      lines[-1].extend(map(tuple, points))
      at, kind = end, upper
  return lines


def _bezier(points):
  """A curve through de Casteljau's construction; a line of two points."""
  if len(points) == 2:
    return [points[1]]
  t = np.linspace(0, 1, _STEPS + 1)[1:, None, None]
  rows = np.repeat(points[None], _STEPS, axis=0)
  while rows.shape[1] > 1:
    rows = (1 - t) * rows[:, :-1] + t * rows[:, 1:]
  return rows[:, 0]


def _arc(start, v, end):
  """By its middle: SVG 1.1, appendix F.6.5."""
  a, b, turn = abs(v[0]), abs(v[1]), math.radians(v[2])
  if not (a and b) or np.allclose(start, end):
    return [end]
  cos, sin = math.cos(turn), math.sin(turn)
  back = np.array([[cos, sin], [-sin, cos]])
  x, y = back @ ((start - end) / 2)
  grow = math.sqrt(max((x / a) ** 2 + (y / b) ** 2, 1.0))
  a, b = a * grow, b * grow
  under = (a * y) ** 2 + (b * x) ** 2
  root = math.sqrt(max((a * b) ** 2 / under - 1, 0.0))
  root *= -1 if bool(v[3]) == bool(v[4]) else 1
  u, w = root * a * y / b, -root * b * x / a
  middle = back.T @ [u, w] + (start + end) / 2
  first = math.atan2((y - w) / b, (x - u) / a)
  sweep = math.atan2((-y - w) / b, (-x - u) / a) - first
  if v[4] and sweep < 0:
    sweep += 2 * math.pi
  elif not v[4] and sweep > 0:
    sweep -= 2 * math.pi
  angles = first + sweep * np.linspace(0, 1, _STEPS + 1)[1:]
  return np.c_[a * np.cos(angles), b * np.sin(angles)] @ back + middle


_SHAPES = {
  "rect": _rect, "circle": _ellipse, "ellipse": _ellipse, "line": _line,
  "polyline": _polyline, "polygon": _polygon, "path": _path,
}  # fmt: skip
