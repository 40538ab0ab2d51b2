"""The facts of each known set: what it holds, who made it, and under which terms.

Split sizes are contracts: a set that is found with other sizes is refused as damaged.
"""

from __future__ import annotations

from graft.data.image_set import SourceFacts

FACTS: dict[str, SourceFacts] = {
    "digits": SourceFacts(
        license="CC BY 4.0",
        citation=(
            "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
            "Repository, 1998, doi:10.24432/C50P49; the copy that scikit-learn ships (its test part)"
        ),
        description="1,797 digits written by 13 people, 8x8 gray, 10 classes",
        classes=10,
        split_sizes={"all": 1797},
        image_size="8x8",
    ),
    "glyphs": SourceFacts(
        license="rendered by graft; fonts: Bitstream Vera and public domain (DejaVu), STIX Fonts License, "
        "BaKoMa (Computer Modern)",
        citation="the fonts that matplotlib ships",
        description="letters and digits rendered from text fonts and distorted, 8x8 gray, 62 classes",
        classes=62,
        image_size="8x8",
    ),
    "folder": SourceFacts(
        license="the user's own", citation="none", description="a folder of images, one folder per class"
    ),
    "table": SourceFacts(
        license="the user's own", citation="none", description="images that a table lists with their labels"
    ),
    "cifar10": SourceFacts(
        license="none stated",
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        description="photographs of 4 vehicles and 6 animals, 10 classes",
        classes=10,
        split_sizes={"train": 50_000, "test": 10_000},
        image_size="32x32",
    ),
    "cifar100": SourceFacts(
        license="none stated",
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        description="photographs of objects, animals, plants and people, 100 fine classes",
        classes=100,
        split_sizes={"train": 50_000, "test": 10_000},
        image_size="32x32",
    ),
    "fashion_mnist": SourceFacts(
        license="MIT",
        citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms, arXiv:1708.07747, 2017",
        description="gray pictures of clothes and shoes from a shop's catalog, 10 classes",
        classes=10,
        split_sizes={"train": 60_000, "test": 10_000},
        image_size="28x28",
    ),
    "svhn": SourceFacts(
        license="for non-commercial use only",
        citation="Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, "
        "NIPS Workshop on Deep Learning and Unsupervised Feature Learning, 2011",
        description="house numbers cropped from street views, 10 digits",
        classes=10,
        split_sizes={"train": 73_257, "test": 26_032},
        image_size="32x32",
    ),
    "stl10": SourceFacts(
        license="none stated; the images are from ImageNet",
        citation="A. Coates, H. Lee and A. Y. Ng, An Analysis of Single-Layer Networks in Unsupervised "
        "Feature Learning, AISTATS, 2011",
        description="photographs of 4 vehicles and 6 animals, 10 classes; the unlabelled part is not read",
        classes=10,
        split_sizes={"train": 5_000, "test": 8_000},
        image_size="96x96",
    ),
    "flowers102": SourceFacts(
        license="none stated",
        citation="M.-E. Nilsback and A. Zisserman, Automated Flower Classification over a Large Number of "
        "Classes, ICVGIP, 2008",
        description="photographs of flowers common in the United Kingdom, 102 classes",
        classes=102,
        split_sizes={"train": 1_020, "val": 1_020, "test": 6_149},
        image_size="shorter side 500 or more",
    ),
    "oxford_pets": SourceFacts(
        license="CC BY-SA 4.0",
        citation="O. M. Parkhi, A. Vedaldi, A. Zisserman and C. V. Jawahar, Cats and Dogs, CVPR, 2012",
        description="photographs of 12 breeds of cats and 25 of dogs, 37 classes",
        classes=37,
        split_sizes={"train": 3_680, "test": 3_669},
        image_size="various, about 500x400",
    ),
    "dtd": SourceFacts(
        license="for research purposes",
        citation="M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed and A. Vedaldi, Describing Textures in the "
        "Wild, CVPR, 2014",
        description="textures described by 47 adjectives; the first of its ten partitions",
        classes=47,
        split_sizes={"train": 1_880, "val": 1_880, "test": 1_880},
        image_size="various, 300x300 to 640x640",
    ),
    "food101": SourceFacts(
        license="none stated; for scientific use",
        citation="L. Bossard, M. Guillaumin and L. Van Gool, Food-101 - Mining Discriminative Components "
        "with Random Forests, ECCV, 2014",
        description="photographs of dishes, 101 classes; the training labels hold some noise on purpose",
        classes=101,
        split_sizes={"train": 75_750, "test": 25_250},
        image_size="longer side at most 512",
    ),
    "eurosat": SourceFacts(
        license="MIT",
        citation="P. Helber, B. Bischke, A. Dengel and D. Borth, EuroSAT: A Novel Dataset and Deep Learning "
        "Benchmark for Land Use and Land Cover Classification, IEEE JSTARS 12(7), 2019",
        description="Sentinel-2 satellite images in RGB by land use, 10 classes; no official split",
        classes=10,
        split_sizes={"all": 27_000},
        image_size="64x64",
    ),
}
