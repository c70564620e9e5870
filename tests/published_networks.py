"""The networks and pairs of the two published tables, and what the networks cost by the authors' code."""

# parameters and multi-adds of the network, the same with branches, embedding width (100 classes, an image of 32 x 32)
COUNTS = {
    "resnet32": (472_756, 69_130_496, 1_281_852, 136_776_448, 64),
    "resnet56": (861_620, 125_753_600, 2_336_828, 250_022_656, 64),
    "resnet110": (1_170_868, 167_453_696, 3_181_948, 337_374_208, 256),
    "wrn_16_2": (703_284, 101_118_464, 1_911_484, 201_807_360, 128),
    "wrn_40_2": (2_255_156, 327_610_880, 6_122_684, 654_792_192, 128),
    "wrn_28_4": (5_872_180, 845_620_224, 15_961_212, 1_701_309_440, 256),
    "shufflenetv2_05x": (444_292, 10_994_176, 1_272_060, 24_365_568, 1024),
    "shufflenetv2_1x": (1_356_104, 45_094_272, 3_762_356, 99_330_944, 1024),
    "hcgnet_a1": (1_102_651, 154_269_036, 2_581_080, 270_434_664, 414),
    "hcgnet_a2": (3_133_679, 488_668_216, 7_248_225, 806_793_600, 716),
}

HOMOGENEOUS = [name for name in COUNTS if name != "wrn_28_4"]
HETEROGENEOUS = [
    ("resnet32", "resnet110"),
    ("resnet56", "resnet110"),
    ("wrn_16_2", "wrn_40_2"),
    ("wrn_40_2", "wrn_28_4"),
    ("resnet56", "wrn_40_2"),
    ("resnet110", "wrn_28_4"),
    ("shufflenetv2_1x", "resnet110"),
    ("shufflenetv2_1x", "wrn_40_2"),
]
