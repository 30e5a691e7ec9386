# ruff: noqa: E501 - a row of a table is read whole
"""The policy for what goes with a value: its name, unit, condition and order; and what TeX hides.

Rows are (answer in the box, gold, whether it is right); each kind has both.
"""

import pytest

from vespo_openrlhf.reward import verify

POWERS_OF_T = [
    ("(2+x)^T", "2+x", False), (r"M^{T}N", "MN", False), (r"500(1.05)^T", "500(1.05)", False),
    (r"500(1.05)^T", r"500\cdot 1.05^{T}", True), ("x^Ty", "xy", False), (r"\frac{2}{3}^T", r"\frac{2}{3}", False),
    (r"A^\top B", "A^TB", True), ("e^{rT}", "e^{rT}", True), ("2^T", "2", False), ("(1+r)^T", r"\exp(T\ln(1+r))", True),
    ("M^TM", "MM^T", False), (r"M^{T} N", "M^TN", True),
]  # fmt: skip

MEMBERS = [
    ("7 pigs and 4 hens", "4 pigs and 7 hens", False), ("4 hens and 7 pigs", "7 pigs, 4 hens", True),
    ("PQ=4, RS=5", "PQ=5, RS=4", False), ("RS=5, PQ=4", "PQ=4, RS=5", True), ("4,5", "PQ=4, RS=5", True),
    ("5,4", "PQ=4, RS=5", False), (r"\text{Tom: } 8, \text{Ann: } 2", r"\text{Tom: } 2, \text{Ann: } 8", False),
    (r"\text{Ann: } 8, \text{Tom: } 2", r"\text{Tom: } 2, \text{Ann: } 8", True), ("2, 8", r"\text{Tom: } 2, \text{Ann: } 8", True),
    (r"\text{Tom: 2, Ann: 8}", r"\text{Tom: 8, Ann: 2}", False), (r"\text{Tom: 2, Ann: 8}", r"\text{Ann: } 8, \text{Tom: } 2", True),
    (r"\text{Tom} = 2, \text{Ann} = 8", r"\text{Tom} = 8, \text{Ann} = 2", False), ("a:3, b:5", "a:5, b:3", False),
    (r"3 \text{ cm}, 4 \text{ kg}", r"4 \text{ cm}, 3 \text{ kg}", False), ("10, 9", r"10 \text{ cats and } 9 \text{ dogs}", True),
    ("9, 10", r"10 \text{ cats and } 9 \text{ dogs}", False), (r"5 \text{ cm and } 6 \text{ cm}", "6,5", True),
    (r"\$5 \text{ and } €3", r"€5 \text{ and } \$3", False), ("x=1, x=-2", "-2,1", True), ("x_1=1, x_2=-2", "-2,1", True),
    ("p=2, q=7", "7,2", False), ("p=2, q=7", "2,7", True), ("7,2", "p=2, q=7", False), ("q=7, p=2", "p=2, q=7", True),
    ("C(5,1), D(2,2)", "C(2,2), D(5,1)", False), ("D(5,1), C(2,2)", "C(2,2), D(5,1)", True), ("C(5,1)", "(5,1)", True),
    (r"\text{highest is } 9 \text{ and lowest is } 4", r"\text{highest is } 4 \text{ and lowest is } 9", False), ("[(5,1),(2,2)]", "(2,2),(5,1)", True),
    (r"\text{7 feet 4 inches}", r"\text{4 feet 7 inches}", False), (r"7 \text{ feet by } 4 \text{ feet}", r"4 \text{ feet by } 7 \text{ feet}", True),
    (r"7 \text{ hours } 20 \text{ minutes}", r"20 \text{ hours } 7 \text{ minutes}", False),
    (r"\text{Answer: } 3, 5", "5,3", True), (r"x=1,y=2 \text{ or } x=3,y=4", "(1,2),(3,4)", True),
    ("x=3,y=4; x=1,y=2", "(1,2),(3,4)", True), (r"x=1,y=4 \text{ or } x=3,y=2", "(1,2),(3,4)", False),
    (r"2\text{ feet }6\text{ inches}", r"6\text{ feet }2\text{ inches}", False), ("2 feet 6 inches", "6 feet 2 inches", False),
    (r"5\text{ red }3\text{ blue}", r"3\text{ red }5\text{ blue}", False), (r"2\text{ days }28\text{ hours}", r"3\text{ days }4\text{ hours}", True),
    (r"2\text{ ft }6\text{ in}", r"2\text{ feet }6\text{ inches}", True),
    ("(x=1,y=2),(x=3,y=4)", "(1,2),(3,4)", True), (r"(x,y)=(1,2) \text{ or } (3,4)", "(3,4),(1,2)", True),
    (r"x\in(1,2), y\in(5,7)", r"x\in(5,7), y\in(1,2)", False), (r"1<x<2, 5<y<7", r"x\in(1,2), y\in(5,7)", True),
    (r"x\in\{1,2\}, y\in\{5\}", r"x\in\{5\}, y\in\{1,2\}", False), ("W, L, W", "W, W, L", False), ("W, L", "L, W", True),
    (r"8 \text{ remainder } 3", r"3 \text{ remainder } 8", False), (r"8 \text{ R } 3", r"3 \text{ R } 8", False), (r"8 \text{ R } 3", r"8\text{ R }3", True),
    (r"4 \text{ less than } x", r"x \text{ less than } 4", False), (r"4\text{ ft }6\text{ in}", r"54\text{ in}", True), (r"4\text{ ft }6\text{ in}", "10", False),
    (r"1\text{ h }20\text{ min}", r"80\text{ min}", True), (r"1\text{ h }20\text{ min}", r"1.2\text{ h}", False),
    (r"8\%, 3", r"3\%, 8", False), (r"8\%, 3", r"8\%, 3.0", True), (r"8\%, 3\%", r"3\%, 8\%", True), (r"30^\circ, 4", r"4^\circ, 30", False),
]  # fmt: skip

PIECEWISE = [
    (r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", r"\begin{cases} 4 & x<1 \\ 3 & x\ge 1\end{cases}", False),
    (r"\begin{cases} 4 & x\ge 1 \\ 3 & x<1\end{cases}", r"\begin{cases} 3, & \text{if } x<1 \\ 4, & \text{if } x\ge 1\end{cases}", True),
    (r"f(x)=\begin{cases} 3 & \text{if } x<1 \\ 4 & \text{otherwise}\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 3 & x<1 \\ 4 & \text{otherwise}\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & x> 1\end{cases}", False),
    (r"\begin{cases} 0 & x \in (0,1) \\ 1 & \text{otherwise} \end{cases}", r"\begin{cases} 1 & x \in (0,1) \\ 0 & \text{otherwise}\end{cases}", False),
    (r"\begin{cases} 0 & n \text{ is odd} \\ 5 & n\text{ is even}\end{cases}", r"\begin{cases} 5 & \text{if } n \text{ even} \\ 0 & \text{if } n\text{ odd}\end{cases}", True),
    (r"\begin{cases} 5 & n \text{ is odd} \\ 0 & n\text{ is even}\end{cases}", r"\begin{cases} 5 & \text{if } n \text{ even} \\ 0 & \text{if } n\text{ odd}\end{cases}", False),
    (r"\begin{cases} 3 & x<1, y<1 \\ 4 & \text{otherwise}\end{cases}", r"\begin{cases} 3 & x<1 \text{ or } y<1 \\ 4 & \text{otherwise}\end{cases}", False),
    (r"\begin{cases} 3 & x<1, y<1 \\ 4 & \text{otherwise}\end{cases}", r"\begin{cases} 3 & y<1 \text{ and } x<1 \\ 4 & \text{otherwise}\end{cases}", True),
    ("x>4, y>5", r"x>4 \text{ or } y>5", False), ("x>4, y>5", r"y>5 \text{ and } x>4", True),
    (r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", "3", False), (r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", "3,4", False),
    (r"\begin{cases} x^2 & x<1 \\ 4 & x\ge 1\end{cases}", r"\begin{cases} x\cdot x & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", r"\begin{cases} 3 & x\le 1 \\ 4 & x> 1\end{cases}", False),
    (r"\left\{\begin{array}{ll} 3, & x<1 \\ 4, & x\ge 1\end{array}\right.", r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 3 \text{ if } x<1 \\ 4 \text{ if } x\ge 1\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 3 & 0<x<1 \\ 4 & 1\le x<2\end{cases}", r"\begin{cases} 3 & 1>x>0 \\ 4 & 2 > x \ge 1\end{cases}", True),
    (r"\begin{cases} 1 & n=0 \\ 2 & n=1 \\ 3 & n \ge 2\end{cases}", r"\begin{cases} 1 & n=0 \\ 3 & n=1 \\ 2 & n \ge 2\end{cases}", False),
    (r"\left\{\begin{array}{l} a=3\\ b=8\end{array}\right.", "a=8,b=3", False), (r"\left\{\begin{array}{l} a=3\\ b=8\end{array}\right.", "b=8,a=3", True),
    (r"\begin{cases} x&=3\\ y&=8\end{cases}", "(3,8)", True), (r"\left\{\begin{aligned} x&=3\\ y&=8\end{aligned}\right.", "(8,3)", False),
    (r"\begin{cases} 3, & \text{if } x<1, \\ 4, & \text{otherwise}.\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & \text{else}\end{cases}", True),
    (r"\begin{dcases} x/3 & x<1 \\ 4 & x\ge 1\end{dcases}", r"\begin{cases} \frac{x}{3} & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 3 \quad x<1 \\ 4 \quad x\ge 1\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", True),
    (r"\begin{cases} 4 \quad x<1 \\ 3 \quad x\ge 1\end{cases}", r"\begin{cases} 3 & x<1 \\ 4 & x\ge 1\end{cases}", False),
    (r"\begin{array}{l} a=3\\ b=8\end{array}", "b=8, a=3", True), (r"\begin{array}{rcl} a&=&8\\ b&=&3\end{array}", "b=8, a=3", False),
]  # fmt: skip

IN_A_SET = [
    (r"-x \in [-3,8]", "[-3,8]", False), (r"2x \in (0,2)", "(0,2)", False), (r"x-1 \in (0,2)", "(0,2)", False),
    (r"x \in (0,2)", "(0,2)", True), (r"f(x) \in (0,2)", "(0,2)", True), (r"x^3 \in (0,4)", r"x^3 \in (0,4)", True),
    (r"\theta \in (0,\pi)", r"(0,\pi)", True), (r"\sin x \in [-1,1]", "[-1,1]", False), (r"\sqrt{x} \in \{1,2\}", r"\{1,2\}", False),
    (r"|t| \in [1,3)", "[1,3)", False), (r"x_1 \in \{1,2\}", "1,2", True), (r"x^3 \in (0,4)", r"x \in (0,4)", False),
    (r"y \in (0,2)", r"x \in (0,2)", False), (r"y \in \{1,2\}", r"x \in \{1,2\}", False), (r"y \ne 3", r"x \ne 3", False),
    (r"x \in (0,2) \cup (3,4)", r"(0,2) \cup (3,4)", True), (r"f(x) \in (0,2)", r"y \in (0,2)", True),
]  # fmt: skip

UNITS = [
    (r"3 \text{ kJ}", r"3000 \text{ J}", True), (r"3 \text{ kJ}", r"3 \text{ J}", False), (r"3 \text{ gallons}", r"3 \text{ liters}", False),
    (r"3 \text{ miles east}", r"3 \text{ miles west}", False), (r"3 \text{ miles}", r"3 \text{ miles west}", True),
    (r"5 \text{ N m}", r"5 \text{ J}", True), (r"5 \text{ N/m}", r"5 \text{ N}", False), (r"7 \text{ J/s}", r"7 \text{ W}", True),
    (r"5 \text{ turns clockwise}", r"5 \text{ turns counterclockwise}", False), (r"90^\circ \text{ clockwise}", r"90^\circ", True),
    (r"15\% \text{ increase}", r"15\%", True), (r"15\% \text{ discount}", r"15\% \text{ markup}", False), ("15% more", "15", False),
    (r"3 \text{ decades}", r"30 \text{ years}", True), (r"5 \text{ cats}", r"5 \text{ dogs}", False), (r"5 \text{ cats}", r"5 \text{ cat}", True),
    (r"5 \text{ boxes}", r"5 \text{ box}", True), (r"5 \text{ units}", r"5 \text{ cm}", True), (r"5 \text{ square units}", r"5 \text{ cm}^2", True),
    (r"12 \text{ different ways}", r"12 \text{ ways}", True), (r"2\text{ GHz}", r"2\text{ MHz}", False), (r"2\text{ kHz}", r"2000\text{ Hz}", True),
    (r"9\,\Omega", "9", True), (r"9\,\text{k}\Omega", r"9\,\Omega", False), (r"9\,\mathrm{k\Omega}", r"9000\,\Omega", True),
    (r"5\,\mu\text{m}", "5", True), (r"5\,\mu\text{m}", r"5 \text{ m}", False), (r"7\pi \text{ kJ}", r"7\pi \text{ J}", False),
    (r"7\pi \text{ cats}", r"7\pi \text{ dogs}", False), (r"7\pi \text{ kJ}", r"7\pi", True), ("5 V", "5", False), ("5A", "5", False),
    ("5pt", "5", False), (r"20 \text{ degrees Celsius}", r"20^\circ C", True), (r"20 \text{ degrees Celsius}", r"20^\circ F", False),
    (r"4 \text{ people per hour}", r"4 \text{ people per minute}", False), (r"\$18 \text{ per day}", r"\$18/day", True),
    (r"\$18 \text{ per day}", r"\$18/week", False), (r"3 \text{ dimes}", r"30 \text{ cents}", True), (r"8 \text{ bits}", r"1 \text{ byte}", True),
    (r"60 \text{ km/h}", r"60 \text{ mph}", False), (r"5\text{ years older}", r"5\text{ years younger}", False),
    (r"7 \text{ in total}", "7", True), (r"7 \text{ in}", r"7 \text{ cm}", False), (r"5 \text{ years}", r"5 \text{ people}", False),
    (r"3 \text{ light years}", r"3 \text{ years}", False), (r"3 \text{ light-years}", r"3 \text{ light years}", True), (r"3 \text{ nautical miles}", r"3 \text{ miles}", False),
    (r"3 \text{ man hours}", r"3 \text{ hours}", False), (r"3 \text{ man hours}", "3", True), (r"3 \text{ whole days}", r"3 \text{ days}", True), (r"3 \text{ US dollars}", r"\$3", True),
    (r"3 \text{ short tons}", r"3 \text{ long tons}", False), (r"3 \text{ mm Hg}", r"3 \text{ mm}", False), (r"40^\circ \text{N}", r"40^\circ \text{S}", False),
    (r"40^\circ \text{N}", r"40^\circ", True), (r"40^\circ \text{ N of E}", r"40^\circ \text{ E of N}", False), (r"40^\circ \text{ north of east}", r"40^\circ \text{ south of east}", False),
    (r"3 \text{ turns anticlockwise}", r"3 \text{ turns counterclockwise}", True), (r"3 \text{ min}", r"180 \text{ sec}", True), (r"3 \text{ min}", r"3 \text{ sec}", False),
    (r"3 \text{ units to the left}", r"3 \text{ units left}", True), (r"3 \text{ units to the left}", r"3 \text{ units to the right}", False),
]  # fmt: skip

WORDS = [
    (r"3 \text{ eightieths}", "3", False), (r"3 \text{ twentieths}", "3", False), ("3 hundredths", "3", False), (r"4 \text{ twelfths}", "4", False),
    (r"7 \text{ billionths}", "7", False), (r"0.6 \text{ repeating}", "0.6", False), (r"0.6 \text{ recurring}", "0.6", False),
    (r"\text{A D}", "D", False), (r"\text{A B}", "B", False), (r"\text{a circle}", r"\text{circle}", True), ("TTH", "THT", False),
    ("TTH", "TTH", True), ("BCA", "ABC", False), ("xyz", "zyx", True), ("2:3:4", "2:4:3", False), ("2:3:4", "4:6:8", True), ("2:3:4", "2:3", False),
    ("6:4", "3:2", True), ("2:3:4", r"\frac16", False), ("a:b:c", "a:c:b", False), (r"1:\sqrt3:2", r"1 : \sqrt{3} : 2", True),
    (r"5 \text{ lakh}", "5", False), (r"5 \text{ crore}", "5", False), (r"5 \text{ octillion}", "5", False), (r"5 \text{ ppm}", "5", False),
    (r"5 \text{ grand}", "5", False), (r"5 \text{ basis points}", "5", False), (r"5 \text{ fourfold}", "5", False), (r"5 \text{ doubled}", "5", False),
    (r"5 \text{ is wrong}", "5", False), (r"5 \text{ false}", "5", False), (r"5 \text{ folders}", "5", True), (r"5 \text{ basins}", "5", True),
    (r"\text{ACD}", "A, C, D", True), ("A, C", "AC", True), ("C, A", "AC", True), ("A, B", "AC", False), ("A, C, D", "AC", False),
    (r"3 \text{ score}", "3", False), (r"0.6 \text{ rep.}", "0.6", False), (r"0.6 \text{ periodic}", "0.6", False), ("TH", "HT", False), ("ht", "th", True),
    (r"\angle PQR", r"\angle PRQ", False), ("-2:1:0", "2:-1:0", True), ("2:1:0", "1:2:0", False), ("a:c:b=1:2:3", "a:b:c=1:2:3", False),
]  # fmt: skip

INFIX_AND_SMALL = [
    (r"{x+1 \over 3}", r"x+\frac13", False), (r"{x+1 \over 3}", r"\frac{x+1}{3}", True), (r"1+{a \over 3}", r"1+\frac{a}{3}", True),
    (r"x+1 \over 3", r"\frac{x+1}{3}", True), (r"{n+1 \choose 2}", r"\frac{n(n+1)}{2}", True), (r"{1 \over {2 \over 3}}", "1.5", True),
    (r"{a \atop b}", r"\frac ab", False), (r"1 \over x+1", r"\frac{1}{x}+1", False), (r"e^{-1500}", r"e^{-1400}", False),
    (r"\frac{1}{e^{1500}}", "e^{-1500}", True), (r"\pi^{-800}", r"\pi^{-801}", False), ("e^{-1500}", "0", False),
    (r"\frac{1}{1000!}", r"\frac{1}{1001!}", False), (r"e^{e^{10}}", r"e^{e^{10}+1}", False),
    (r"\sqrt{5 \over 3}", r"\sqrt{\frac53}", True), (r"\sqrt{5 \over 3}", r"\frac{\sqrt5}{3}", False), (r"x^{1 \over 3}", r"\sqrt[3]{x}", True),
    (r"\left(x+1 \over 3\right)", r"\frac{x+1}{3}", True), (r"\left(x+1 \over 3\right)", r"x+\frac13", False), (r"2{1 \over 3}", r"\frac73", True),
]  # fmt: skip

COMMAS = [
    (r"x \in [1,200]", "[1,200]", True), ("Q(3,400)", "(3,400)", True), (r"x \in [1,200]", "[1200]", False), ("12,500", "12500", True),
    ("x=(5,600)", "(5,600)", True), (r"\{(1,100),(2,200)\}", "(1,100),(2,200)", True), ("]1,200[", "(1,200)", True),
    (r"\text{(C) } 1,200", "1200", True), (r"\,12,500", "12500", True), ("x=12,500", "12500", True), (r"\frac{1,200}{7}", r"\frac{1200}{7}", True),
    (r"[0,100)\cup(1,200]", r"[0,100)\cup(1,200]", True), ("(1,200)", "1200", False), ("a) 1,200", "a) 1200", True),
]  # fmt: skip

NAMED = [
    (r"p+q=\frac34", r"\frac34", True), (r"p+q=\frac34", r"\frac43", False), (r"\frac34", r"p+q=\frac34", False), ("p+q=2r", "2r", False),
    (r"\lim_{n\to\infty} a_n = 5", "5", True), (r"\lim_{n\to\infty} a_n = 5", "6", False), (r"\Pr(A)=\frac13", r"\frac13", True),
    ("P(X>2)=0.3", "0.3", True), ("P(X>2)=0.3", "2", False), (r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}=-2", "-2", True),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}=-2", "-2", True), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}=-2", "2", False), ("2x+1=5", "5", False),
    (r"\frac{V_1}{V_2}=\frac49", r"\frac49", True), (r"\alpha+\beta=6", "6", True), ("x_1+x_2=6", "6", True), (r"\frac{x}{2}=6", "6", False),
    (r"PQ \cdot PR=6", "6", True), (r"2 \cdot x=6", "6", False),
]  # fmt: skip

ROOTS_AND_POINTS = [
    (r"\sqrt[3]{-27}", "-3", True), (r"\sqrt[3]{-27}", "3", False), (r"\sqrt[4]{-16}", "-2", False), (r"\sqrt[5]{-2}", r"-\sqrt[5]{2}", True),
    (r"x\neq\pm3", r"(-\infty,-3)\cup(-3,3)\cup(3,\infty)", True), (r"x\neq 2, x \neq 5", r"(-\infty,2)\cup(2,5)\cup(5,\infty)", True),
    (r"(-\infty,3)\cup(3,-3)\cup(-3,\infty)", r"x \ne \pm 3", False), (r"x\neq\pm3", r"(-\infty,-3)\cup(-3,3)\cup(3,4)", False),
    (r"x\neq\pm3", r"(-\infty,-3]\cup(-3,3)\cup(3,\infty)", False), (r"x\ne\pm\sqrt2", r"(-\infty,-\sqrt2)\cup(-\sqrt2,\sqrt2)\cup(\sqrt2,\infty)", True),
    (r"x \ne 1, 3", r"(-\infty,1)\cup(3,\infty)", False),
    (r"\sqrt[3]{-x}", r"-\sqrt[3]{x}", True), (r"\sqrt[3]{x^2}", r"-\sqrt[3]{x^2}", False), (r"\sqrt[3]{x^3}", "x", True), (r"\sqrt[4]{x^4}", "x", False),
]  # fmt: skip

QUALIFIERS = [
    (r"k\pi, k\in\mathbb{N}", r"k\pi, k\in\mathbb{Z}", False), (r"k\pi \text{ for } k\in\mathbb N", r"k\pi, k\in\mathbb{Z}", False),
    (r"k\pi (k\in\mathbb{Z})", r"k\pi, k\in\mathbb{Z}", True), (r"x^2, x\ge 5", r"x^2, x\ge 0", False), (r"x^2, x\geq 0", r"x^2, x\ge 0", True),
    (r"3k+1, k\in\mathbb{N}", "3k+1", True), (r"3k+1, k\in\mathbb{Z}^+", "3k+1", True), (r"3k+1, k\in\mathbb{Z}_{>0}", "3k+1", True),
    (r"3k+1 \text{ for all } k \in \mathbb{Z}", "3k+1", True), (r"3k+1 \text{ for any integer } k", "3k+1", True),
    (r"3k+1 \text{ where } k \text{ is an integer}", "3k+1", True), (r"3k+1, k\in\mathbb{N}", "3k", False), ("3k+1, k>0", "3k+1", True),
    (r"g(x)=3x \text{ for all real } x", "g(x)=3x", True), (r"g(x)=3x \quad \forall x \in \mathbb{R}", "3x", True),
    (r"m\pi, m\in\mathbb{N}", r"m\pi, m\in\mathbb{Z}", False), (r"m\pi, m\in\mathbb{R}", r"m\pi, m\in\mathbb{Z}", False),
    (r"m\pi \text{ where } m \text{ is an integer}", r"m\pi, m\in\mathbb{Z}", True), ("m\\pi", r"m\pi, m\in\mathbb{Z}", True),
    (r"m\pi \text{ where } m \text{ is a real number}", r"m\pi, m\in\mathbb{Z}", False), (r"m\pi \text{ for all integers } m", r"m\pi, m\in\mathbb{Z}", True),
    (r"m^3, m\in\mathbb{Z}_{>0}", r"m^3, m\in\mathbb{N}", True), (r"m^3, m\in\mathbb{Z}_{\ge 0}", r"m^3, m\in\mathbb{N}", True),
    (r"m^3, m\in\mathbb{Z}_{\ge 0}", r"m^3, m\in\mathbb{Z}^{+}", False), (r"m^3, m\in\mathbb{Z}^-", r"m^3, m\in\mathbb{Z}^+", False),
    (r"4\pi, m \in \mathbb{Z}", r"4\pi m, m \in \mathbb{Z}", False), (r"4\pi m \quad (m \in \mathbb{Z})", r"4\pi m, m \in \mathbb{Z}", True),
    (r"u-v, \forall u, v \in \mathbb{R}", "u-v", True), (r"u-v \text{ for all } u,v \in \mathbb{R}", "u-v", True),
    (r"\frac{1}{x-5}, x\ne 4", r"\frac{1}{x-5}, x\ne 5", False), (r"\frac{1}{4x-1}, x\ne 1/4", r"\frac{1}{4x-1}, x\ne \frac14", True),
    (r"y = Be^{x}, B \in \mathbb{R}", "y=Be^x", True), ("x^4, x>0", r"x^4, x\ge 1", False), (r"x^4 \text{ for } x>0", "x^4, x > 0", True),
    (r"\frac{1}{x}, x \neq 0", r"\frac1x", True), ("7, x>0", "7", False), (r"7 \text{ if } x>0", "7", False),
    (r"g(x)=\frac{1}{x}, x\ne 0", r"\frac1x", True), (r"a_n=3n+1, n\ge 1", "3n+1", True), (r"\frac1x \ (x \ne 0)", r"\frac1x", True), ("x=3, y>1", "3", False),
    (r"3k+1 \text{ for integer } k", r"3k+1, k\in\mathbb{Z}", True), (r"\frac{1}{x-5} \ (x \ne 4)", r"\frac{1}{x-5} \ (x \ne 5)", False),
    (r"3k+1 \ (k=1,2,3,\ldots)", "3k+1", True), (r"3k+1, k=0,1,2,\dots", "3k+1", True), (r"3k+1, k=0,1,2,\dots", r"3k+1, k=1,2,3,\dots", False), ("7, k=1,2,3,\\dots", "7", False),
    (r"n\pi, n\in\mathbb{Z}", r"k\pi, k\in\mathbb{Z}", True), (r"2n\pi, n\in\mathbb{Z}", r"k\pi, k\in\mathbb{Z}", False),
    (r"x=\frac{\pi}{4}+n\pi, n\in\mathbb Z", r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", True), (r"3n+1, n\in\mathbb{N}", r"3k+1, k\in\mathbb{Z}", False),
    (r"y=ax+x, x\in\mathbb{Z}", r"y=ax+b, b\in\mathbb{Z}", False), (r"kx+n, n\in\mathbb{Z}", r"kx+k, k\in\mathbb{Z}", False),
    (r"2mn+n, n\in\mathbb{Z}", r"2mn+k, k\in\mathbb{Z}", False), (r"2n+1, n>3", r"2k+1, k\in\mathbb{Z}", False),
    (r"\frac{\pi}{3}+2n\pi, n=0,1,2,\ldots", r"\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}", False), (r"x^2, x>0", r"k^2, k\in\mathbb{Z}", False),
    (r"e+2.718, e\in\mathbb{Z}", r"k+2.718, k\in\mathbb{Z}", False), (r"\frac{pn}{2n}, n\in\mathbb{Z}", r"\frac{pn}{2k}, k\in\mathbb{Z}", False),
    (r"3x+1 \text{ for all } x", r"3k+1, k\in\mathbb{Z}", False), (r"kn+n, n\in\mathbb{Z}", r"kn+m, m\in\mathbb{Z}", False),
    (r"kn, n\in\mathbb{Z}", r"k^2, k\in\mathbb{Z}", False), (r"x=\frac{\pi}{6}+2n\pi, \frac{5\pi}{6}+2n\pi, n\in\mathbb{Z}", r"\frac{5\pi}{6}+2k\pi, \frac{\pi}{6}+2k\pi, k\in\mathbb{Z}", True),
]  # fmt: skip

REPEATING = [
    (r"0.\bar{6}", r"\frac23", True), (r"0.\bar{6}", "0.6", False), (r"0.\dot1\dot8", r"\frac{2}{11}", True), (r"0.1\dot{6}", r"\frac16", True),
    (r"66.\overline{6}\%", r"\frac23", True), (r"66.\overline{6}\%", "66.6\\%", False), (r"0.\dot{0}\dot{9}", r"\frac1{11}", True),
    (r"1.2\dot{3}4\dot{5}", r"\frac{12333}{9990}", True), (r"-0.\bar{6} \text{ cm}", r"-\frac23", True), (r"0.\overline{12}", r"0.\overline{21}", False),
    (r"0.6 \text{ repeating}", r"\frac23", True), (r"0.16 \text{ repeating}", r"\frac16", False), (r"0.16 \text{ repeating}", "0.16", False),
]  # fmt: skip

NOTATION = [
    (r"\ln^2 3", r"(\ln 3)^2", True), (r"\ln^2 3", r"\ln 9", False), (r"\ln^2(x+1)", r"(\ln(x+1))^2", True), (r"\lg 7", r"\log_{10} 7", True),
    (r"\lg 7", r"\ln 7", False), (r"n\equiv 2 \bmod 9", r"n \equiv 2 \pmod 9", True), (r"n\equiv 2 \bmod 9", r"n \equiv 2 \pmod 8", False),
    (r"n\equiv 2\ (\mathrm{mod}\ 9)", r"n \equiv 2 \pmod{9}", True), (r"\mathbb Z", r"\mathbb{Z}", True), (r"\mathbb Q", r"\mathbb{Z}", False),
    (r"\text{7th}", "7", True), (r"\text{7th}", "8", False), (r"\text{\$12}", "12", True), (r"\text{12 USD}", r"\$12", True), (r"\text{€12}", r"\$12", False),
    (r"\text{€}12", "12", True), (r"\pounds 12", "12", True), (r"\pounds 12", r"\$12", False),
]  # fmt: skip

TURNED_ROUND = [
    ("d>c>b", "b<c<d", True), ("d>c>b", "b>c>d", False), (r"a \le b < c", r"c > b \ge a", True), (r"a \le b < c", r"c \ge b > a", False),
    ("-x > -4", "x<4", True), ("-x > -4", "x>4", False), (r"-x \le -4", r"[4,\infty)", True), ("1<-x<3", "-3<x<-1", True), ("-2x > -4", "x<2", False),
    ("x>0, y<5", "0<x<5", False), ("x>0, x<5", "0<x<5", True), (r"x\ne 1, y\ne 2", r"x\ne 2, y\ne 1", False), (r"x\ne 1, x\ne 2", r"x\ne 2, x\ne 1", True),
]  # fmt: skip

BOUND = [
    (r"\sum_{j=1}^{n} j^2 x^j", r"\sum_{k=1}^{n} x^k k^2", True), (r"\sum_{j=1}^{n} j^3 x^j", r"\sum_{k=1}^{n} k^2 x^k", False),
    (r"\int_0^{x} \cos(u) e^{-u^2} \, du", r"\int_0^{x} e^{-t^2} \cos t \, dt", True), (r"\sum_{m=1}^{m} \sqrt{m+1}", r"\sum_{j=1}^{j} \sqrt{j+1}", False),
    (r"\frac{\sum_{j=1}^{n} \sqrt{j+1}}{2}", r"\frac{1}{2} \sum_{k=1}^{n} \sqrt{1+k}", True),
    (r"\prod_{j=1}^{n} (1 - 2x\cos j + x^2)", r"\prod_{k=1}^{n} (x^2 - 2x\cos k + 1)", True),
    (r"\sum_{a=1}^{n}\sum_{b=1}^{a} \frac{x^b}{b+a}", r"\sum_{i=1}^{n}\sum_{j=1}^{i} \frac{x^j}{i+j}", True),
    (r"\sum_{a=1}^{\infty}\sum_{b=1}^{\infty} \frac{x^a}{a+2b}", r"\sum_{a=1}^{\infty}\sum_{b=1}^{\infty} \frac{x^b}{b+2a}", True),
    (r"\sum_{a=1}^{\infty}\sum_{b=1}^{\infty} \frac{x^a}{a+2b}", r"\sum_{a=1}^{\infty}\sum_{b=1}^{\infty} \frac{x^b}{a+2b}", False),
    (r"\sum_{i=1}^{n} x_i y_i", r"\sum_{k=1}^{n} y_k x_k", True), (r"\sum_{i=1}^{n} x_{i+1}", r"\sum_{k=1}^{n} x_{k+1}", True),
    (r"\sum_{i=1}^{n} x_{i+1}", r"\sum_{k=1}^{n} x_k", False), (r"\sum_{i=1}^{n} x_i", r"\sum_{k=1}^{n} x_i", False), (r"\sum_{i=1}^{n} x_i", r"\sum_{i=1}^{n} y_i", False),
]  # fmt: skip

SHORTHANDS = [  # thousands, millions or kelvin: never the bare number
    (r"5\text{K}", "5", False), (r"5\text{M}", "5", False), (r"5\text{B}", "5", False), ("5 K", "5", False), ("5k", "5", False),
    ("5", r"5\text{K}", False), (r"5\text{K}", r"\sqrt{25}", False), (r"\sqrt{2}\text{M}", r"\sqrt{2}", False),
    (r"5\text{ K}", r"5\text{K}", True), (r"300\text{ kelvin}", r"300\text{ K}", True), (r"300\text{ kelvin}", "300", True),
]  # fmt: skip

FUZZED = [
    (r"5 \text{ feet}^0", r"5 \text{ feet}^2", False), (r"7 \text{ m/}^2", r"7 \text{ m/s}^2", False), (r"30 \text{ km/m}", r"30 \text{ km/h}", False),
    (r"\ln 7/\ln 4", r"\frac{\ln 7}{\ln 4}", True), (r"\frac{5}{6} : 1/3", r"\frac{5}{6} : \frac13", True), (r"\frac{5}{6} : 1/3", r"\frac{5}{18}", False),
]  # fmt: skip

TABLES = {
    "powers of T": POWERS_OF_T, "members": MEMBERS, "piecewise": PIECEWISE, "in a set": IN_A_SET, "units": UNITS, "words": WORDS,
    "infix": INFIX_AND_SMALL, "commas": COMMAS, "named": NAMED, "roots": ROOTS_AND_POINTS, "qualifiers": QUALIFIERS,
    "repeating": REPEATING, "notation": NOTATION, "turned": TURNED_ROUND, "bound": BOUND, "shorthands": SHORTHANDS, "fuzzed": FUZZED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        pytest.param(*row, id=f"{name}-{row[0]!a}-vs-{row[1]!a}")
        for name, table in TABLES.items()
        for row in table
    ],
)
def test_kind(answer: str, gold: str, right: bool) -> None:
    verdict = verify(f"So the answer is $\\boxed{{{answer}}}$.", gold)
    assert verdict.correct == right, verdict


@pytest.mark.parametrize(
    ("before", "negative"),
    [
        (r"$-1\cdot", True), (r"$-1 \times", True), ("$(-1)", True), (r"x = (-1)\cdot ", True), ("minus ", True),
        ("It is minus $", True), ("negative ", True), ("12 minus ", False), ("$12$ minus $", False), ("x minus ", False),
        (r"$3-1\cdot", False), ("$2^{-1}", False), ("The sign is negative, so ", False), ("12 minus 5 is ", False),
    ],
)  # fmt: skip
def test_a_sign_in_words_before_the_box(before: str, negative: bool) -> None:
    response = before + r"\boxed{7}" + "$" * (before.count("$") % 2)
    assert verify(response, "-7" if negative else "7").correct
    assert not verify(response, "7" if negative else "-7").correct
