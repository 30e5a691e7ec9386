"""Answers made to hang, crash or exhaust a verifier: what ``bench`` and the tests run."""

from __future__ import annotations


def adversarial_answers() -> dict[str, str]:
    """Box contents by name; none of them is a right answer to anything."""
    deep_fraction = "\\frac{1}{" * 5000 + "2" + "}" * 5000
    row = " & ".join(["1"] * 200)
    return {
        "power tower": "9^{9^{9^{9}}}",
        "power tower, plain": "9^9^9^9^9 + x",
        "power of a power": "10^{10^{10}} + \\pi",
        "big power": "7^{99999} \\cdot \\sqrt{2}",
        "power tower in brackets": "(((9^{9})^{9})^{9})^{99} + \\sqrt{3}",
        "factorial": "100000000! + \\pi",
        "factorial of a product": "(9999 \\cdot 9999)! x",
        "factorials": "20!!!!!",
        "binomial": "\\binom{100000000}{50000000} x",
        "binomial of powers": "\\binom{10^9}{5 \\cdot 10^8} x",
        "sum": "\\sum_{k=1}^{10^8} k^k",
        "sum of logarithms": "\\sum_{k=1}^{99999} \\ln k",
        "product": "\\prod_{k=1}^{99999} k^2 x",
        "integral": "\\int_0^1 \\sin(\\cos(e^{x^x})) dx + \\pi",
        "polynomial": "(x+y+z+1)^{60}",
        "polynomial of polynomials": "((x+y+z+1)^{60}+1)^{60}",
        "deep fraction": deep_fraction,
        "deep fraction, 50": "\\frac{1}{" * 50 + "2" + "}" * 50,
        "deep brackets": "(" * 5000 + "1" + ")" * 5000,
        "deep braces": "{" * 3000 + "1" + "}" * 3000,
        "deep roots": "\\sqrt{" * 24 + "2" + "}" * 24,
        "open brackets": "(" * 20000,
        "matrix": "\\begin{pmatrix}" + " \\\\ ".join([row] * 200) + "\\end{pmatrix}",
        "repeating decimal": "0." + "7" * 200_000,
        "long integer": "9" * 200_000,
        "long integer, in the limits": "9" * 1_900,
        "set": "\\{" + ",".join(str(n) for n in range(1000)) + "\\}",
        "set of roots": "\\{" + ",".join(f"\\sqrt{{{n}}}" for n in range(2, 60)) + "\\}",
        "repeated ones": "1 " * 25_000,
        "repeated token": "and " * 20_000,
        "display openings": "\\[" * 10_000,
        "inline openings": "\\(" * 10_000,
        "dollars": "$" * 9_999,
        "commas": "," * 9_000,
        "backslashes": "\\" * 9_999,
        "carets": "x^" * 700,
        "nul": "7\x00\x008",
        "lone surrogate": "7\ud800 + x",
        "right to left": "\u202e7 + x",
        "combining": "x" + "\u0301" * 500,
        "logarithm of a tower": "\\log(9^{9^{9}}) + x",
        "tiny exponent": "2^{-99999} + \\pi",
        "trigonometry": "\\sin(10^{9999} x) + \\cos(10^{9999})",
        "nested sines": "\\sin " * 200 + "x",
        "limit": "\\lim_{n \\to \\infty} (1 + \\frac{1}{n})^{n^n}",
        "huge exponent": "1e999999999",
        "complex power": "i^{i^{i^{i}}} + (1+i)^{9999}",
        "modulus": "7^{9^{5}} \\mod 10^{9}",
    }
