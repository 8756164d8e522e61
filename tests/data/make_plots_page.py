"""Makes `.dvc/plots.html`, the page of `dvc plots show` and `dvc plots diff`, with Vega in it instead of from a CDN.

With the package vl-convert-python 1.9.0 or later, which holds Vega's JavaScript (vega, vega-lite and vega-embed):

    python tests/data/make_plots_page.py .dvc/plots.html
"""

import sys
from pathlib import Path

import vl_convert

VEGA_LITE = "5.21"  # DVC's templates are for version 5
# DVC replaces {refresh_tag} and {plot_divs}; its own page has a third such place, {scripts}, which loads Vega.
PAGE = """<!DOCTYPE html>
<!-- Made by tests/data/make_plots_page.py.
VERSIONS, Copyright (c) University of Washington Interactive Data Lab and contributors, licence BSD-3-Clause:
Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met: 1. Redistributions of source code must retain the above copyright notice, this list of
conditions and the following disclaimer. 2. Redistributions in binary form must reproduce the above copyright notice,
this list of conditions and the following disclaimer in the documentation and/or other materials provided with the
distribution. 3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
promote products derived from this software without specific prior written permission.
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE. -->
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<style>body { font-family: sans-serif; margin: 2rem } img { max-width: 100% }</style>
<script>{
BUNDLE
}</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def make(page: Path) -> None:
    """Writes the page."""
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    if "</script" in bundle:
        raise ValueError("the bundle cannot stand in a page: it contains </script")
    embed = vl_convert.get_vega_embed_version()
    versions = f"Vega {vl_convert.get_vega_version()}, Vega-Lite {VEGA_LITE}, Vega-Embed {embed}"
    page.write_text(PAGE.replace("VERSIONS", versions).replace("BUNDLE", bundle), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
