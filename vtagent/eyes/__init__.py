"""What is known of a model's eyes: what an image costs, how the provider shrinks it, its limits, and how it says where.

`eyes_of(model)` answers for a LangChain chat model or a name; everything else asks here, and no other room knows a
provider. Nothing of a provider is imported: classes and models are known by their names.

Who asks what:

- `View.size(vision)` is `vision.fit(w, h)` of the part shown at scale 1, and `vision.low(w, h, scale)` below. Both
  are sizes that the provider does not shrink again, so pixels as sent are pixels as seen, and a low view's bill is
  measured against what is billed for the whole, not against what the file holds.
- `View.tokens(vision)` is `vision.tokens(*view.size(vision), low=view.scale < 1)`.
- A view below scale 1 carries the model's low setting (`detail: low`, `media_resolution`) where its cost follows a
  setting: `eyes.block(base64, mime_type, low=view.scale < 1)` is the content block, which `PixelModel` sends.
- A request with many images asks `eyes.vision_for(count)`: accounting, rendering and boxes of pixels count alike.
- `Parts.eyes(model)` keeps what was looked up, and the zoom tool reads boxes as `eyes.boxes` says.
"""

from vtagent.eyes.facts import QWEN_ZOOM, Eyes, Fact, Limits, LowSetting
from vtagent.eyes.known import FAMILIES, KnownFamily, family_of
from vtagent.eyes.lookup import UnknownModelWarning, eyes_of, eyes_on
from vtagent.eyes.vision import Vision

__all__ = [
    "FAMILIES",
    "QWEN_ZOOM",
    "Eyes",
    "Fact",
    "KnownFamily",
    "Limits",
    "LowSetting",
    "UnknownModelWarning",
    "Vision",
    "eyes_of",
    "eyes_on",
    "family_of",
]
