"""Writes the tables of rwkv/unicode.h from Python's unicodedata:  python3 dev/reference/unicode_tables.py rwkv/unicode.h

Replaces what is between the two `tables` marks. A table is one string of numbers >= 0; a number is its digits to
the base 32, lowest first, digit d as the character chr(48 + d) if it is the last one and chr(80 + d) if not.
  letters, digits   \\p{L} and \\p{N}: gap before the range, length of the range, ...
  classes           canonical combining class: gap, length, class, ...   (ranges with class > 0)
  pairs             canonical decompositions: gap to the code point, twice the first part (+1 if the pair must not be
                    composed again), second part relative to the previous second part (zigzag; 0 itself: no second part)
Hangul syllables are left out of `pairs`: they decompose by arithmetic."""
import sys
import unicodedata as ud

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]

def number(n):
    out = ""
    while n >= 32:
        out += chr(80 + n % 32)
        n //= 32
    return out + chr(48 + n)

def ranges(value):  # maximal runs of code points with the same true value: (gap before, length, value)
    out, end = [], 0
    c = 0
    while c < 0x110000:
        v = value(chr(c)) if not 0xD800 <= c < 0xE000 else 0
        start = c
        while c < 0x110000 and (value(chr(c)) if not 0xD800 <= c < 0xE000 else 0) == v:
            c += 1
        if v:
            out.append((start - end, c - start, v))
            end = c
    return out

def pairs():
    out, last, last_second = [], 0, 0
    for c in ALL:
        parts = ud.decomposition(chr(c)).split()
        if not parts or parts[0].startswith("<"):
            continue
        first, second = int(parts[0], 16), int(parts[1], 16) if len(parts) > 1 else 0
        excluded = ud.normalize("NFC", chr(c)) != chr(c)
        step = second - last_second
        out.append((c - last, 2 * first + excluded, (2 * step if step > 0 else -2 * step + 1) if second else 0))
        assert not second or out[-1][2] > 0
        last, last_second = c, second or last_second
    return out

def cpp(name, rows, note):
    text = "".join(number(n) for row in rows for n in row)
    lines = [text[i:i + 116] for i in range(0, len(text), 116)]
    return f"// {note}\ninline const char {name}[] = R\"(\n" + "\n".join(lines) + ")\";\n"

tables = (f"// Unicode {ud.unidata_version}, written by dev/reference/unicode_tables.py, which also explains the coding\n"
          + cpp("unicode_letters", [r[:2] for r in ranges(lambda s: ud.category(s)[0] == "L")], "\\p{L}: gap, length")
          + cpp("unicode_digits", [r[:2] for r in ranges(lambda s: ud.category(s)[0] == "N")], "\\p{N}: gap, length")
          + cpp("unicode_classes", ranges(ud.combining), "canonical combining classes: gap, length, class")
          + cpp("unicode_pairs", pairs(), "canonical decompositions: gap, 2 * first + never composed, step of second"))
head, _, rest = open(sys.argv[1]).read().partition("// tables begin\n")
_, _, tail = rest.partition("// tables end\n")
open(sys.argv[1], "w").write(head + "// tables begin\n" + tables + "// tables end\n" + tail)
