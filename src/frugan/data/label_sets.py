"""The labels of Cityscapes and COCO-Stuff, as their files number them."""

from frugan.data.maps import MapRules, some_colours

_CITY: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("unlabeled", (0, 0, 0)),
    ("ego vehicle", (0, 0, 0)),
    ("rectification border", (0, 0, 0)),
    ("out of roi", (0, 0, 0)),
    ("static", (0, 0, 0)),
    ("dynamic", (111, 74, 0)),
    ("ground", (81, 0, 81)),
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("parking", (250, 170, 160)),
    ("rail track", (230, 150, 140)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("guard rail", (180, 165, 180)),
    ("bridge", (150, 100, 100)),
    ("tunnel", (150, 120, 90)),
    ("pole", (153, 153, 153)),
    ("polegroup", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("caravan", (0, 0, 90)),
    ("trailer", (0, 0, 110)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
    ("license plate", (0, 0, 142)),
)
_THINGS = (
    "person bicycle car motorcycle airplane bus train truck boat traffic-light fire-hydrant street-sign stop-sign "
    "parking-meter bench bird cat dog horse sheep cow elephant bear zebra giraffe hat backpack umbrella shoe "
    "eye-glasses handbag tie suitcase frisbee skis snowboard sports-ball kite baseball-bat baseball-glove skateboard "
    "surfboard tennis-racket bottle plate wine-glass cup fork knife spoon bowl banana apple sandwich orange broccoli "
    "carrot hot-dog pizza donut cake chair couch potted-plant bed mirror dining-table window desk toilet door tv "
    "laptop mouse remote keyboard cell-phone microwave oven toaster sink refrigerator blender book clock vase scissors "
    "teddy-bear hair-drier toothbrush hair-brush"
)
_STUFF = (
    "banner blanket branch bridge building-other bush cabinet cage cardboard carpet ceiling-other ceiling-tile cloth "
    "clothes clouds counter cupboard curtain desk-stuff dirt door-stuff fence floor-marble floor-other floor-stone "
    "floor-tile floor-wood flower fog food-other fruit furniture-other grass gravel ground-other hill house leaves "
    "light mat metal mirror-stuff moss mountain mud napkin net paper pavement pillow plant-other plastic platform "
    "playingfield railing railroad river road rock roof rug salad sand sea shelf sky-other skyscraper snow solid-other "
    "stairs stone straw structural-other table tent textile-other towel tree vegetable wall-brick wall-concrete "
    "wall-other wall-panel wall-stone wall-tile wall-wood water-other waterdrops window-blind window-other wood"
)
_COCO_NAMES = (*_THINGS.split(), *_STUFF.split(), "don't care")
_DONT_CARE = 255

CITYSCAPES = MapRules(names=tuple(name for name, _ in _CITY), colours=tuple(colour for _, colour in _CITY))
"""The 34 numbers of *_labelIds.png, and the licence plate (-1 there, in no file) as 34: SPADE's 35 labels."""
COCO_STUFF = MapRules(
    names=_COCO_NAMES, colours=some_colours(len(_COCO_NAMES)), replaced=((_DONT_CARE, len(_COCO_NAMES) - 1),)
)
"""91 things and 91 stuffs, numbered from 0, and "don't care" (255 in the files) as 182: SPADE's 183 labels."""
