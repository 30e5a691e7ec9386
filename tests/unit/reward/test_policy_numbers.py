# ruff: noqa: E501 - a row of a table is read whole
"""The policy for numbers: exact values, and what may stand around them.

Rows are (answer in the box, gold, whether it is right).
"""

import pytest

from reward import verify

INTEGERS = [
    ("42", "42", True), ("42", "43", False), ("-42", "42", False), ("+42", "42", True),
    ("42.", "42", True), ("42.0", "42", True), ("042", "42", True), ("42.00", "42", True),
    (" 42 ", "42", True), ("$42$", "42", True), (r"\(42\)", "42", True), (r"\[42\]", "42", True),
    ("{42}", "42", True), ("(42)", "42", True), ("−42", "-42", True), ("–42", "-42", True),
    ("４２", "42", True), ("42\u200b", "42", True), ("-0", "0", True), ("4 2", "42", False),
    ("420", "42", False), ("4.2", "42", False), ("42,", "42", True), (r"42\,", "42", True),
    ("10^{3}", "1000", True), ("1000", "10^3", True), ("2^{10}", "1024", True),
    ("1024", "2^{10}", True), ("2^{10}", "1023", False), (r"\frac{14}{2}", "7", True),
    ("42!", "42", False), (r"\sqrt{49}", "7", True), ("7^1", "7", True),
]  # fmt: skip

FRACTIONS = [
    (r"\frac{1}{2}", "1/2", True), ("1/2", r"\frac{1}{2}", True), ("0.5", r"\frac{1}{2}", True),
    (r"\frac12", "0.5", True), (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
    (r"\tfrac{1}{2}", r"\frac12", True), (r"\cfrac{1}{2}", r"\frac12", True),
    (r"\frac{2}{4}", r"\frac{1}{2}", True), (r"-\frac{1}{2}", r"\frac{-1}{2}", True),
    (r"\frac{1}{-2}", r"-\frac{1}{2}", True), (r"\frac{1}{2}", r"-\frac{1}{2}", False),
    (r"\frac 59", r"\frac{5}{9}", True), (r"\frac9{19}", "9/19", True), ("2/1", r"\frac12", False),
    (r"\frac{270}7", r"\frac{270}{7}", True), (r"\frac{1}{3}", r"\frac{1}{2}", False),
    ("½", r"\frac{1}{2}", True), ("3½", r"\frac{7}{2}", True), ("1⁄2", "0.5", True),
    (r"1\frac{4}{5}", r"\frac{9}{5}", True), ("1 4/5", "9/5", True), ("9/5", r"1\frac{4}{5}", True),
    (r"137 \frac{1}{2}", "137.5", True), (r"1\frac{4}{5}", r"\frac{4}{5}", False),
    (r"-1\frac{1}{2}", "-1.5", True), (r"-1\frac{1}{2}", "-0.5", False),
    (r"1\frac{4}{5}", "1.8", True), ("14/5", r"1\frac{4}{5}", False), (r"\frac{1}{0}", "0", False),
    (r"\frac{0.5}{2}", "0.25", True), (r"\left(\frac{1}{2}\right)", "0.5", True),
    (r"\frac{\frac{1}{2}}{3}", r"\frac{1}{6}", True), (r"1 \div 2", "0.5", True),
    (r"\frac{3}{4}", r"\frac{3}{5}", False), (r"\frac{1}{2}+\frac{1}{3}", r"\frac{5}{6}", True),
]  # fmt: skip

DECIMALS = [
    (".5", "0.5", True), ("0.50", "0.5", True), (".0000672", "0.0000672", True),
    (".0000673", ".0000672", False), ("6.72e-5", ".0000672", True),
    (r"6.72 \times 10^{-5}", ".0000672", True), ("0.333", r"\frac{1}{3}", False),
    ("0.333333", r"\frac{1}{3}", False), ("0.3333333333333333", r"\frac{1}{3}", True),
    (r"0.\overline{3}", r"\frac{1}{3}", True), (r"0.1\overline{6}", r"\frac{1}{6}", True),
    (r"0.\overline{3}", "0.3", False), ("3.14", r"\pi", False), ("3.14159265", r"\pi", False),
    ("3.141592653589793", r"\pi", True), ("3.141592653589794", r"\pi", False),
    ("0.1234567", "0.1234568", False), ("5.40", r"5.4 \text{ cents}", True), ("3.21", "3.2", False),
    (".35625", r"\frac{57}{160}", True), ("0.30000000000000004", "0.3", False),
    ("1.9999999999999999", "2", False), (r"8.7\times 10^8", "870000000", True),
    ("870000000", r"8.7 \times 10^{8}", True), ("8.7e8", "870000000", True),
    ("8.7E+08", "870000000", True), (r"8.7 \cdot 10^8", "870,000,000", True),
    (r"8.7\times 10^7", "870000000", False), ("1e-9", "0", False), ("1e-7", "2e-7", False),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False), ("1/2^{99}", "1/2^{98}", False),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False), (r"\frac{1}{2^{99}}", "2^{-99}", True),
    (r"\frac{1}{2004!}", r"\frac{2005}{2005!}", True), ("1.4142135", r"\sqrt{2}", False),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True), ("326.5", r"\frac{653}{2}", True),
    (r"10^{-20}", "0", False), (r"10^{-20}", r"2\cdot 10^{-20}", False),
]  # fmt: skip

SEPARATORS = [
    (r"58\,500", "58500", True), ("58,500", "58500", True), ("58{,}500", "58500", True),
    ("58 500", "58500", True), ("58500", "58,500", True), (r"10,\!080", "10080", True),
    (r"11,\! 111,\! 111,\! 100", "11111111100", True), ("1,234,567.89", "1234567.89", True),
    ("58,50", "5850", False), ("1,23", "123", False), (r"1\ 234", "1234", True),
    ("1'234", "1234", True), (r"1\;000\;000", "1000000", True), (r"\$32,\!348", "32348", True),
    ("1,000", "1", False), ("12,345", "12345", True), ("0,500", "500", False),
]  # fmt: skip

UNITS = [
    ("5 cm", "5", True), ("5", r"5\text{ cm}", True), (r"5\,\mathrm{cm}", "5", True),
    (r"5 \text{ cm}", "5cm", True), (r"5 \text{ m}", "5", True), (r"5\text{m}", "5", True),
    ("5 cm", "5 m", False), ("500 cm", "5 m", True), (r"864 \mbox{ inches}^2", "864", True),
    ("864", r"864 \mbox{ inches}^2", True), (r"864 \text{ square inches}", r"864 \mbox{ inches}^2", True),
    (r"864\text{ in}^2", r"864 \mbox{ inches}^2", True), (r"15\text{ cm}^2", r"15\mbox{ cm}^2", True),
    (r"15\text{ cm}^3", r"15\mbox{ cm}^2", False), ("5 apples", "5", True),
    (r"12 \text{ ways}", "12", True), ("5 miles per hour", "5", True), ("5 mph", "5", True),
    (r"5 \text{ km/h}", "5", True), (r"5\ \frac{m}{s}", "5", False), ("60 minutes", "1 hour", True),
    ("3m", "3", False), ("3x", "3", False), ("3R^2", "3", False), ("5r^5", "5", False),
    (r"3\sqrt{13} \text{ cm}", r"3\sqrt{13}", True), (r"7\pi \text{ square units}", r"7\pi", True),
    (r"7\pi \text{ cm}^2", r"7 \pi", True), (r"7\pi \text{ cm}^2", r"8 \pi", False),
    (r"90^\circ", "90", True), ("90", r"90^\circ", True), ("90°", r"90^{\circ}", True),
    (r"90\text{ degrees}", r"90^\circ", True), (r"90^\circ", "91", False),
    (r"\frac{270}{7}^\circ", r"\frac{270}7\text{ degrees}", True), (r"90\degree", "90", True),
    (r"\$18.90", "18.90", True), ("18.9", r"\$18.90", True), ("$36", "36", True),
    (r"\$36", r"36\text{ dollars}", True), ("36 dollars", "36", True), ("€36", "36", True),
    ("€36", r"\$36", False), (r"50\text{ cents}", r"\$0.50", True), (r"\$5", "6", False),
    ("50%", "50", True), (r"50\%", "50", True), ("50", r"50\%", True), ("0.5", r"50\%", True),
    (r"50\%", "0.5", True), (r"50\%", r"\frac{1}{2}", True), (r"50\%", "5", False),
    (r"50\%", r"5\%", False), (r"50 \text{ percent}", r"50\%", True), ("50 percent", "50", True),
    ("5 million", "5000000", True), (r"5 \text{ million}", "5,000,000", True),
    ("5 million", "5", False), (r"\text{5 cm}", "5", True), ("5 units", "5", True),
    (r"1000 \text{ grams}", r"1 \text{ kg}", True), (r"5 \text{ kg}", r"5 \text{ g}", False),
    (r"5 \text{ not}", "5", False), (r"5 \text{ or more}", "5", False), ("5 meters", "5 m", True),
]  # fmt: skip

BASES = [
    ("52_8", "52_8", True), ("52_{8}", "52_8", True), ("52_9", "52_8", False),
    (r"52_{\text{eight}}", "52_8", True), ("(52)_8", "52_8", True), ("42", "52_8", False),
    ("52_8", "42", False), ("42_{10}", "42", True), (r"52_{\text{base }8}", "52_8", True),
    ("4210_5", "4210_{5}", True), ("1A_{16}", "1a_{16}", True), ("2516_8", "2517_8", False),
    (r"204_{\text{five}}", "204_5", True), (r"52 \text{ base } 8", "52_8", True),
]  # fmt: skip

INTEGER_GOLD_UNEVALUATED = [
    ("3+4", "7", False), ("10-3", "7", False), (r"7 \cdot 1", "7", False), ("7*1", "7", False),
    (r"7\times 1", "7", False), ("7+0", "7", False), ("3!", "6", False), ("3! ", "3!", True),
    (r"\binom{7}{1}", "7", False), (r"\sum_{i=1}^{7} 1", "7", False), ("2(3)", "6", False),
    (r"\max(1,7)", "7", False), (r"\gcd(7,14)", "7", False), (r"\lfloor 7.5 \rfloor", "7", False),
    (r"\int_0^7 dx", "7", False), (r"\log_2 128", "7", False), ("(3)(4)", "12", False),
    (r"2^2 \cdot 3", "12", False), (r"5 \pm 2", "7", False), ("x+7-x", "7", False),
    (r"1+2+3+\cdots+10", "55", False), ("7 mod 10", "7", False), (r"\frac{3+4}{1}", "7", False),
    (r"\sqrt{40+9}", "7", False), (r"2\sqrt{4}", "4", False), ("9^{9^{9}}", "7", False),
    (r"\ge 7", "7", False), ("<8", "7", False), (r"\approx 7", "7", True), ("3+4=7", "7", True),
    ("3+5=7", "7", False), ("5=7", "7", False), ("120", "5!", True), ("7", "3+4", True),
]  # fmt: skip

TABLES = {
    "integers": INTEGERS, "fractions": FRACTIONS, "decimals": DECIMALS, "separators": SEPARATORS,
    "units": UNITS, "bases": BASES, "unevaluated": INTEGER_GOLD_UNEVALUATED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        pytest.param(*row, id=f"{name}-{row[0]}-vs-{row[1]}")
        for name, t in TABLES.items()
        for row in t
    ],
)
def test_numbers(answer: str, gold: str, right: bool) -> None:
    verdict = verify(f"So the answer is $\\boxed{{{answer}}}$.", gold)
    assert verdict.correct == right, verdict
    assert verdict.reason in (("correct",) if right else ("wrong", "ambiguous", "unparsable"))
