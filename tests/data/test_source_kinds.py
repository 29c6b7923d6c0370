"""Every form that labelled images come in: the same batches for any number of processes, and after a resume."""

import io
import json

import numpy as np
import pytest
from image_trees import tar_of
from PIL import Image

from resnet_jax.config import load_config
from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError
from resnet_jax.training.experiment import options_of
from resnet_jax.training.images import make_transform

parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, as Parquet does")
arrow = pytest.importorskip("pyarrow", reason="needs pyarrow, as Parquet does")
NUM_IMAGES = 24
FORMS = ("folder", "tar", "webdataset", "csv", "jsonl", "parquet")
IMAGE_TYPE = [("bytes", arrow.binary()), ("path", arrow.string())]


def jpeg(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 20, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write(root, form):
    """24 images of three classes, of class k those of 8 k to 8 k + 7, so that all forms have them in one order."""
    root.mkdir()
    data = [(i, f"class{i // 8}", jpeg(i)) for i in range(NUM_IMAGES)]
    if form == "folder":
        for i, name, image in data:
            (root / name).mkdir(exist_ok=True)
            (root / name / f"{i:02d}.jpg").write_bytes(image)
    elif form == "tar":
        (root / "a.tar").write_bytes(tar_of({f"{name}/{i:02d}.jpg": image for i, name, image in data}))
    elif form == "webdataset":
        for shard in range(3):
            (root / f"{shard:06d}.tar").write_bytes(
                tar_of(
                    {
                        f"{i:06d}.{end}": content
                        for i, name, image in data[8 * shard : 8 * shard + 8]
                        for end, content in (("jpg", image), ("txt", name.encode()))
                    }
                )
            )
    elif form == "parquet":
        for part in range(2):
            rows = data[12 * part : 12 * part + 12]
            write_parquet(root / f"{part}.parquet", [image for *_, image in rows], [name for _, name, _ in rows])
    else:
        (root / "photos").mkdir()
        for i, _, image in data:
            (root / f"photos/{i:02d}.jpg").write_bytes(image)
        if form == "csv":
            rows = "".join(f"{i:02d}.jpg,{name}\n" for i, name, _ in data)
            (root / "labels.csv").write_text(f"image,label\n{rows}")
        else:
            rows = (json.dumps({"file_name": f"photos/{i:02d}.jpg", "label": name}) for i, name, _ in data)
            (root / "metadata.jsonl").write_text("\n".join(rows))
    return root


def write_parquet(path, images, labels, names=None, paths=None):
    paths = paths or [None] * len(images)
    rows = [{"bytes": image, "path": where} for image, where in zip(images, paths, strict=True)]
    table = arrow.table({"image": arrow.array(rows, arrow.struct(IMAGE_TYPE)), "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The images in every form, each transformed by random crops and flips."""
    root, home = tmp_path_factory.mktemp("forms"), tmp_path_factory.mktemp("home")
    options = options_of(load_config("folder", ["--config.image_size=16", "--config.batch_size=8"]))
    transform = make_transform(options.augment, options.images, options.images.preprocess())
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RESNET_JAX_HOME", str(home))
        yield {
            form: DatasetOptions(preprocess=options.images.preprocess())
            .source(open_image_set(write(root / form, form)).images())
            .transformed(transform)
            for form in FORMS
        }


@pytest.fixture(scope="module")
def expected(sources):
    """The batches of two epochs of the plain folder."""
    batches = TrainBatches(sources["folder"], 8, seed=3)
    return [batches[step] for step in range(6)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_two_epochs_are_the_folders_for_any_number_of_processes(form, num_processes, sources, expected):
    parts = [TrainBatches(sources[form], 8, 3, process, num_processes) for process in range(num_processes)]
    for step, whole in enumerate(expected):
        of_processes = [part[step] for part in parts]
        for key in ("image", "label", "sample"):
            np.testing.assert_array_equal(np.concatenate([batch[key] for batch in of_processes]), whole[key])


@pytest.mark.parametrize("form", FORMS)
def test_batches_after_a_resume_are_those_that_would_have_come(form, tmp_path, sources, expected, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))  # nothing is kept of the first start
    again = open_image_set(sources[form].encoded.root).images()
    assert again.digest() == sources[form].encoded.digest()
    source = DatasetOptions(preprocess=sources[form].preprocess).source(again).transformed(sources[form].transform)
    batches = TrainBatches(source, 8, seed=3)
    for step in (5, 4):
        np.testing.assert_array_equal(batches[step]["image"], expected[step]["image"])


def test_parquets_class_names_are_the_metadatas_and_must_be_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    write_parquet(root / "train-00000-of-00002.parquet", [jpeg(0), jpeg(1)], [1, 0], ["dog", "cat"])
    write_parquet(root / "train-00001-of-00002.parquet", [jpeg(2)], [1], ["dog", "cat"])
    write_parquet(root / "test-00000-of-00001.parquet", [jpeg(3)], [0], ["dog", "cat"])
    found = open_image_set(tmp_path)
    assert (found.images("train").class_names, found.images("train").labels.tolist()) == (("dog", "cat"), [1, 0, 1])
    assert found.images("test").read(0) == (jpeg(3), 0)
    assert found.images("test").name(0) == f"{root}/test-00000-of-00001.parquet[0]"
    write_parquet(root / "test-00000-of-00001.parquet", [jpeg(3)], [0], ["cat", "dog"])
    with pytest.raises(
        UserError, match=r"train-00000-of-00002\.parquet says that its classes are dog, cat, and .*cat, dog"
    ):
        open_image_set(tmp_path)


def test_parquet_that_only_names_its_images_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data / "a.parquet", [jpeg(0), None], ["cat", "dog"], paths=["a.jpg", "/elsewhere/b.jpg"])
    with pytest.raises(UserError, match=r"row 1 holds no image, only the path /elsewhere/b\.jpg"):
        open_image_set(data)
    write_parquet(data / "a.parquet", [jpeg(0), None], ["cat", "dog"], paths=["a.jpg", None])
    with pytest.raises(UserError, match="row 1 holds no image: remove the row"):
        open_image_set(data)
    (data / "b.jpg").write_bytes(jpeg(1))
    write_parquet(data / "a.parquet", [jpeg(0), None], ["cat", "dog"], paths=["a.jpg", "b.jpg"])
    assert open_image_set(data, table=TableOptions(file="a.parquet")).images().read(1) == (jpeg(1), 1)


def test_parquet_of_a_table_names_files(tmp_path):
    write(tmp_path / "set", "csv")
    (tmp_path / "set/labels.csv").unlink()
    names = [f"{i:02d}.jpg" for i in range(NUM_IMAGES)]
    parquet.write_table(arrow.table({"image": names, "label": ["a", "b"] * 12}), tmp_path / "set/labels.parquet")
    found = open_image_set(tmp_path / "set").images()
    assert (found.class_names, found.labels[:4].tolist()) == (("a", "b"), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([["cat"], ["dog", None]], r"a\.parquet row 1, column 'label': one of its labels is none"),
        (["cat", "cat"], "has one class, cat"),
    ],
)
def test_parquet_with_labels_that_cannot_be_is_refused(tmp_path, labels, line):
    write_parquet(tmp_path / "a.parquet", [jpeg(0), jpeg(1)], labels)
    with pytest.raises(UserError, match=line):
        open_image_set(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        open_image_set(tmp_path)


def labels_of(root):
    """The class of each image by split, and what was said."""
    found = open_image_set(root)
    parts = {split: found.images(split or None) for split in found.splits or [""]}
    names = {split: [part.class_names[i] for i in part.labels.tolist()] for split, part in parts.items()}
    return names, " | ".join(found.notes)


def open_with(root, split_folders=None, **table):
    found = open_image_set(root, split_folders, TableOptions(**table)).images()
    rows = found.labels.tolist()
    return [found.class_names[row] for row in rows] if found.labels.ndim == 1 else (found.class_names, rows)


def test_options_name_the_labels_in_shards(tmp_path):
    members = {}
    for i, values in enumerate([{"y": "a|b", "dx": 0}, {"y": "b", "dx": 1}, {"y": "a", "dx": 0}]):
        members |= {f"{i:06d}.jpg": jpeg(i), f"{i:06d}.json": json.dumps(values).encode()}
    (tmp_path / "000000.tar").write_bytes(tar_of(members))
    assert open_with(tmp_path, label_column="dx") == ["0", "1", "0"]
    assert open_with(tmp_path, label_column="y", label_separator="|") == (("a", "b"), [[1, 1], [0, 1], [1, 0]])
    for table, line in (
        ({}, r"it must hold a label, called label, cls, class … \(config\.table\.label_column names another key\)"),
        ({"label_column": "z"}, "it must hold a label, called z"),
        ({"label_column": "y", "split_column": "s"}, r"config\.table\.split_column='s' has no effect on the shards"),
    ):
        with pytest.raises(UserError, match=line):
            open_with(tmp_path, **table)
    with pytest.raises(UserError, match=r"config\.split_folders\.train='x' has no effect"):
        open_with(tmp_path, SplitFolders("x"), label_column="dx")
    numbered = {f"{i:06d}.cls": b"7" for i in range(3)}
    named = {name: data.replace(b"}", b', "label": 3, "label_name": "cat%d"}' % i) if name.endswith("json") else data
             for i, (name, data) in enumerate(members.items())}  # fmt: skip
    (tmp_path / "000000.tar").write_bytes(tar_of({**named, **numbered}))
    assert open_with(tmp_path, label_column="dx") == ["0", "1", "0"]  # of the JSON, and not by another key's names
    texts = {f"{i:06d}.{end}": one for i in range(2) for end, one in (("jpg", jpeg(i)), ("txt", b"a|b" if i else b"b"))}
    (tmp_path / "000000.tar").write_bytes(tar_of(texts))
    assert open_with(tmp_path, label_separator="|") == (("a", "b"), [[0, 1], [1, 1]])
    with pytest.raises(UserError, match=r"config\.table\.label_column='y' names a key of JSON, and it is none"):
        open_with(tmp_path, label_column="y")


def test_options_name_the_labels_in_parquet_files_with_images(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    write_parquet(root / "a.parquet", [jpeg(0), jpeg(1)], ["a|b", "a"])
    assert open_with(root, label_separator="|") == (("a", "b"), [[1, 1], [1, 0]])
    with pytest.raises(UserError, match=r"config\.table\.split_column='fold' has no effect on Parquet files"):
        open_with(root, label_separator="|", split_column="fold")


def test_numbers_in_parquet_count_the_metadatas_class_names_whatever_these_are(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    write_parquet(root / "train-0.parquet", [jpeg(0), jpeg(1), jpeg(2)], [1, 0, 2], ["1", "2", "0"])
    write_parquet(root / "test-0.parquet", [jpeg(3), jpeg(4)], [0, -1], ["1", "2", "0"])
    names, notes = labels_of(root)
    assert names == {"train": ["2", "1", "0"], "test": ["1"]}
    assert open_image_set(root).images("test").read(0) == (jpeg(3), 0)
    assert "left aside: 1 row of test-0.parquet without a label" in notes
    write_parquet(root / "test-0.parquet", [jpeg(3), jpeg(4)], [-1, -1], ["1", "2", "0"])
    names, notes = labels_of(root)
    assert [*names] == ["train"]
    assert "left aside: test, which has no row with a label" in notes


@pytest.mark.parametrize(
    ("labels", "names", "line"),
    [
        ([0, 2], ["cat", "dog"], r"row 1, column 'label': the label 2 must be from 0 to 1, as there are 2 class names"),
        ([0, 1], ["cat", "cat"], r"class name 'cat' twice"),
        ([{"id": 1}, {"id": 2}], None, r"row 0, column 'label': a label must be a name or a number"),
        (["a|b", "a"], None, r"labels such as 'a\|b' seem to be several each"),
    ],
)
def test_parquet_with_labels_that_are_not_clear_is_refused(tmp_path, monkeypatch, labels, names, line):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    write_parquet(root / "a.parquet", [jpeg(0), jpeg(1)], labels, names)
    with pytest.raises(UserError, match=line):
        open_image_set(root)


def test_parquet_files_of_other_columns_are_refused_and_those_without_images_left_aside(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    write_parquet(root / "b.parquet", [jpeg(0), jpeg(1)], ["cat", "dog"])
    parquet.write_table(arrow.table({"source": ["x", "y"]}), root / "a.parquet")
    assert labels_of(root)[0] == {"": ["cat", "dog"]}
    other = arrow.table(
        {"photo": arrow.array([{"bytes": jpeg(2), "path": None}], arrow.struct(IMAGE_TYPE)), "label": ["cat"]}
    )
    parquet.write_table(other, root / "c.parquet")
    with pytest.raises(UserError, match=r"c\.parquet has no column 'image', as .*b\.parquet has, but photo, label"):
        open_image_set(root)


@pytest.mark.parametrize("column", ["label", "image"])
def test_parquet_whose_pages_are_damaged_is_refused_by_name_in_one_line(tmp_path, monkeypatch, column):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    root = tmp_path / "data"
    root.mkdir()
    path = root / "a.parquet"
    write_parquet(path, [jpeg(i) for i in range(4)], ["cat", "dog", "cat", "dog"])
    metadata = parquet.read_metadata(path).row_group(0)
    place = next(
        metadata.column(i) for i in range(metadata.num_columns) if metadata.column(i).path_in_schema.startswith(column)
    )
    data = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + 12] = b"\xff" * 12
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet") as info:
        open_image_set(root)
    assert "\n" not in str(info.value)
    assert "home" not in str(info.value)
