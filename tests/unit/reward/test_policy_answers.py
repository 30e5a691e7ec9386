# ruff: noqa: E501 - a row of a table is read whole
"""The policy for answers by their kind: numbers, expressions, lists, tuples, intervals, words.

Rows are (answer in the box, gold, whether it is right).
"""

import pytest

from vespo_openrlhf.reward import verify

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

EXPRESSIONS = [
    ("p - q", "p-q", True), ("q - p", "p-q", False), ("-q+p", "p - q", True), ("xy", "yx", True),
    (r"x^2+2x+1", "(x+1)^2", True), ("(x+1)**2", "x^2+2x+1", True), ("x^2+2x", "(x+1)^2", False),
    (r"11\sqrt2", r"11\sqrt{2}", True), ("11*sqrt(2)", r"11\sqrt{2}", True), ("11√2", r"11\sqrt2", True),
    (r"\sqrt{242}", r"11\sqrt{2}", True), (r"\sqrt{243}", r"11\sqrt{2}", False), ("2pi", r"2\pi", True),
    ("2π", r"2\pi", True), (r"\pi\cdot 2", r"2\pi", True), (r"3\pi", r"2\pi", False),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True), ("6-5i", "6 - 5i", True),
    ("-5i+6", "6 - 5i", True), ("6+5i", "6 - 5i", False), (r"6-5\mathrm{i}", "6 - 5i", True),
    (r"1-\frac{1}{e}", r"1-1/\mathrm{e}", True), (r"1-1/\mathrm{e}", r"1-\frac{1}{e}", True),
    (r"1-e^{-1}", r"1-\frac{1}{e}", True), (r"\frac{\cos x}{\sin x}", r"\cot x", True),
    (r"\frac{1}{\tan x}", r"\cot x", True), (r"\tan x", r"\cot x", False), ("|x|", "x", False),
    (r"\sqrt{x^2}", "|x|", True), (r"\sqrt{x^2}", "x", False), ("2k+2", "2(k+1)", True),
    ("3R^2", "3r^2", True), ("0", r"\pi(R^2-r^2)", False), (r"\pi R^2 - \pi r^2", r"\pi(R^2-r^2)", True),
    ("e^{x}e^{y}", "e^{x+y}", True), (r"\ln 4", r"2 \ln 2", True), (r"\log 4", r"\ln 3", False),
    (r"\sin^2 x+\cos^2 x", "1", False), ("8n^2+4n+1", "8n^2 + 4n + 1", True), ("x", "y", False),
    (r"\frac{20000}{\pi}", r"20000/\pi", True), (r"\frac{11+9a}{20}", "(9a+11)/20", True),
    ("0.5x", r"\frac{x}{2}", True), (r"\frac12 x", r"x/2", True), (r"x^{1/2}", r"\sqrt{x}", True),
    ("2^{n+1}", r"2 \cdot 2^n", True), ("2^{n}", "2^{n+1}", False), ("n!", "n!", True),
    (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}", True), ("a_1 + a_2", "a_2 + a_1", True),
    (r"\infty", r"\infty", True), (r"-\infty", r"\infty", False), ("∞", r"\infty", True),
    (r"\tan^{-1} 2", r"\arctan 2", True), (r"\sqrt[3]{2}", "2^{1/3}", True), (r"-\frac{\pi}{6}", r"-\pi/6", True),
    (r"\left(x+1\right)\left(x-1\right)", "x^2-1", True), (r"18+2\pi", r"2(9+\pi)", True),
    (r"\frac{\pi}{4}", r"\frac{\pi}{3}", False), (r"(1+x)^{60}", "(x+1)^{60}", True),
]  # fmt: skip

LISTS = [
    ("1,-2", "-2,1", True), ("-2, 1", "1,-2", True), ("1", "1,-2", False), ("1,-2,3", "1,-2", False),
    (r"1 \text{ and } -2", "1,-2", True), (r"1 \text{ or } -2", "1,-2", True), ("1 and -2", "-2,1", True),
    (r"x=1 \text{ or } x=-2", "1,-2", True), ("x = 1, -2", "1,-2", True), ("x=1, x=-2", "-2, 1", True),
    (r"\{1,-2\}", "1,-2", True), ("1,-2", r"\{1,-2\}", True), (r"\{-2, 1\}", r"\{1,-2\}", True),
    (r"\{1, 2\}", r"\{1, 2, 3\}", False), (r"\{1,1,2\}", r"\{1,2\}", True), ("3,5,7", "3, 5, 7", True),
    ("7, 5, 3", "3, 5, 7", True), ("3, 5", "3, 5, 7", False), (r"1 \pm \sqrt{19}", r"1 \pm \sqrt{19}", True),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}", True), (r"1-\sqrt{19},1+\sqrt{19}", r"1\pm\sqrt{19}", True),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True), (r"1+\sqrt{19}", r"1 \pm \sqrt{19}", False),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}", True), (r"\pm 2", "2,-2", True),
    ("2", r"\pm 2", False), (r"\{5\}", "5", True), ("5", r"\{5\}", True), ("1, 2", "2", False),
    ("1 or 2", "2", False), (r"1 \text{ or } 2", "1", False), ("1; 2", "2", False), ("2, 2", "2", True),
    (r"\emptyset", r"\{\}", True), (r"\varnothing", r"\emptyset", True), ("7 8", "7", False),
    ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "7", False), (r"7 \quad 8", "8", False), (r"7 \\ 8", "8", False),
    (r"\frac12, \frac13", "0.5, 1/3", True), (r"\text{A, C}", "A, C", True), ("100,200,300", "100, 200, 300", True),
]  # fmt: skip

TUPLES = [
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True), ("(6,31,-1)", "(6, 31, -1)", True),
    ("(31,6,-1)", "(6,31,-1)", False), ("(1,2)", "(2,1)", False), (r"\{1,2\}", "(1,2)", False),
    ("(1,2)", r"\{1,2\}", False), ("3, 4", "(3,4)", True), ("4, 3", "(3,4)", False), ("(3,4)", "(3, 4, 5)", False),
    (r"\langle 1,2,3 \rangle", "(1,2,3)", True), ("(x,y) = (1,2)", "(1,2)", True), ("x=1, y=2", "(1,2)", True),
    ("x=2, y=1", "(1,2)", False), ("(1+2, 4)", "(3,4)", False), ("(0.5, 2)", r"(\frac{1}{2}, 2)", True),
    ("(1,2),(3,4)", "(3,4),(1,2)", True), ("(1,2),(4,3)", "(3,4),(1,2)", False), (r"\left( \frac{3}{2}, -13 \right)", "(1.5,-13)", True),
    ("(1,-16,-4,43)", "(1, -16, -4, 43)", True), ("(1,2)", "1", False), ("(2,4)", "2,4", True), ("(4,2)", "2,4", False),
]  # fmt: skip

INTERVALS = [
    ("(3,4]", r"\left(3,4\right]", True), ("[3,4]", "(3,4]", False), ("(3,4)", "(3,4]", False),
    (r"3 < x \le 4", "(3,4]", True), (r"3 < x \leq 4", "(3,4]", True), (r"3 \le x \le 4", "(3,4]", False),
    ("(3,4]", r"3 < x \le 4", True), (r"4 \ge x > 3", "(3,4]", True), ("x > 5", r"(5,\infty)", True),
    (r"(5,\infty)", "x>5", True), (r"x \ge 5", r"(5,\infty)", False), (r"x \geqslant 5", r"[5,\infty)", True),
    (r"5 < x", r"(5,\infty)", True), (r"x \in (5,\infty)", r"(5, \infty)", True), (r"x \in [-2,7]", "[-2,7]", True),
    ("[-2,7]", r"x \in [-2,7]", True), (r"-2 \le x \le 7", r"x \in [-2,7]", True), (r"(-2, 7)", r"x \in [-2,7]", False),
    (r"x < 2 \text{ or } x > 3", r"(-\infty,2)\cup(3,\infty)", True), (r"(3,\infty)\cup(-\infty,2)", r"(-\infty, 2) \cup (3, \infty)", True),
    (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3", True), (r"(-\infty,2]\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)", False),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)", True), (r"\mathbb{R} \setminus \{2\}", r"(-\infty,2)\cup(2,\infty)", True),
    (r"(-\infty, \infty)", r"\mathbb{R}", True), (r"\text{all real numbers}", r"(-\infty,\infty)", True),
    (r"\{x \mid x > 5\}", r"(5,\infty)", True), (r"\{x : 3 < x \le 4\}", "(3,4]", True), (r"(-\infty, 0]", r"x \le 0", True),
    (r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]", r"[\pi^2/8, 5\pi^2/4]", True), (r"(-\sqrt{3}, \sqrt{3})", r"-\sqrt3 < x < \sqrt3", True),
    (r"x>2 \text{ and } x<5", "(2,5)", True), ("y > 5", "x > 5", False), (r"2 < y < 3", "(2,3)", True), ("(2,3)", "(2,4)", False),
    (r"(0,9) \cup (9,36)", r"(9,36) \cup (0,9)", True), (r"(0,36)", r"(0,9) \cup (9,36)", False), (r"x ≥ 5", r"[5,\infty)", True),
    ("x >= 5", r"[5,\infty)", True), (r"(5, +\infty)", r"(5,\infty)", True),
]  # fmt: skip

EQUATIONS = [
    ("x=5", "5", True), ("5", "x=5", True), ("x=5", "x=5", True), ("y=5", "x=5", False), ("x=6", "5", False),
    ("x = 5", r"x=5", True), ("5=x", "5", True), ("2x=10", "5", False), ("2x=10", "x=5", False), ("f(x)=2x+3", "2x+3", True),
    ("2x+3", "y = 2x + 3", True), ("y=2x+3", "y = 2x + 3", True), ("y = 3+2x", "y=2x+3", True), ("y=2x-3", "y=2x+3", False),
    ("2x-y+3=0", "y=2x+3", True), ("y-3=2x", "y=2x+3", True), ("-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0", True),
    ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0", True), ("5x - 7y + 11z = 4", "5x - 7y + 11z + 4 = 0", False),
    (r"\text{Area} = 12", "12", True), (r"AB = 12", "12", True), (r"P(A)=\frac12", "0.5", True), ("x = 2+3 = 5", "5", True),
    ("x = 2+4 = 5", "5", False), (r"\angle ABC = 90^\circ", "90", True), (r"x = \sqrt{2} \approx 1.414", r"\sqrt{2}", True),
    (r"\sqrt{2} \approx 1.414", "1.414", True), (r"\sqrt{2} \approx 7", "7", False), (r"5 \approx 7", "7", False),
    ("x^2+y^2=1", "x^2+y^2-1=0", True), ("x^2+y^2=2", "x^2+y^2=1", False), ("y=2x", "y = -2x", False), ("x=y", "y=x", True),
    (r"\text{Answer: } 5", "5", True), (r"\text{The answer is } 5", "5", True), ("n = 12", "12", True), ("x_1=5", "5", True),
    (r"2x + y < 5", "y + 2x < 5", True), (r"2x + y < 5", "2x+y > 5", False), (r"-2x-y > -5", "2x+y<5", True),
]  # fmt: skip

MATRICES = [
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac{2}{3} \end{pmatrix}", True),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{bmatrix}-1&0\\0&-1\end{bmatrix}", True),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", False),
    (r"\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
    (r"\begin{pmatrix} \sqrt{4} \\ x \end{pmatrix}", r"\begin{pmatrix}2\\x\end{pmatrix}", True),
    (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
]  # fmt: skip

WORDS = [
    (r"\text{Evelyn}", "Evelyn", True), ("Evelyn", r"\text{Evelyn}", True), ("evelyn", r"\text{Evelyn}", True),
    (r"\text{Evelyn }", r"\text{Evelyn}", True), (r"\textbf{Evelyn}", "Evelyn", True), ("Navin", "Evelyn", False),
    (r"\text{east}", r"\text{seat}", False), ("teas", r"\text{east}", False), (r"\mathrm{even}", r"\text{even}", True),
    (r"\text{odd}", r"\text{even}", False), ("an ellipse", r"\text{ellipse}", True), (r"\text{no solution}", "No solution", True),
    ("yes", "Yes", True), ("no", "Yes", False), (r"\text{Yes}", "yes", True), (r"\text{not even}", r"\text{even}", False),
    ("Alice and Bob", "Bob and Alice", True), (r"\text{Alice}", r"\text{Alice and Bob}", False), ("parabola", "5", False),
]  # fmt: skip

CHOICES = [
    ("C", r"\text{(C)}", True), ("(C)", r"\text{(C)}", True), (r"\text{C}", r"\text{(C)}", True), (r"\textbf{(C)}", "C", True),
    ("C.", "C", True), ("C)", "C", True), ("c", "(C)", True), ("(B)", r"\text{(C)}", False), (r"\mathrm{(C)}", "C", True),
    (r"\text{Option C}", "C", True), (r"\textbf{(C)}\ 5", "C", True), (r"\textbf{(C)}\ 5", "5", True), (r"\textbf{(C)}\ 5", "6", False),
    (r"\text{(C) } 5", "C", True), ("C: 5", "C", True), ("A, B, C, D", "C", False), ("A or C", "C", False), ("(A) (C)", "C", False),
    ("A. B. C. D.", "A", False), ("ABCD", "C", False), (r"\text{A and C}", "C", False), ("5", "C", False), ("(E)", r"\text{(E)}", True),
]  # fmt: skip

TABLES = {
    "integers": INTEGERS, "fractions": FRACTIONS, "decimals": DECIMALS, "separators": SEPARATORS,
    "units": UNITS, "bases": BASES, "unevaluated": INTEGER_GOLD_UNEVALUATED,
    "expressions": EXPRESSIONS, "lists": LISTS, "tuples": TUPLES, "intervals": INTERVALS,
    "equations": EQUATIONS, "matrices": MATRICES, "words": WORDS, "choices": CHOICES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        pytest.param(*row, id=f"{name}-{row[0]}-vs-{row[1]}")
        for name, t in TABLES.items()
        for row in t
    ],
)
def test_answers(answer: str, gold: str, right: bool) -> None:
    verdict = verify(f"So the answer is $\\boxed{{{answer}}}$.", gold)
    assert verdict.correct == right, verdict
    assert verdict.reason in (("correct",) if right else ("wrong", "ambiguous", "unparsable"))
