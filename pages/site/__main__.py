"""`python -m pages.site OUT` builds the site into the folder OUT."""

import sys
from pathlib import Path

from pages.site.build import BrokenDocuments, build

try:
    written = build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/site"))
except BrokenDocuments as error:
    sys.exit(str(error))
print(f"{len(written)} files; open {written[0]}")
