"""Wrong input, one table: command lines, files and calls, and what each of them gets.

A command line gets one line, or two, that say what is wrong, where, and what would be right; it exits with another
code than zero, and creates nothing. What is in a file of a run is the table of tests/run/test_soundness.py.
"""

import json
import shlex
import subprocess
import sys

import forks
import numpy as np
import pytest
import torch
from program import environment

import moex
from moex import metrics, models
from moex.beyond_moments import exchange_components, exchange_order
from moex.data import MissingDataError, find
from moex.launch.arguments import as_written, understand
from moex.run.evaluation import read_predictions

COMMANDS = {
    # Keys and values
    "train.py epoch=3": "unknown key 'epoch': the nearest are epochs",
    "train.py +model.nam=x": "unknown key 'model.nam'",
    "train.py foo.bar=1": "unknown key 'foo.bar'",
    "train.py epochs=many": "epochs: Value 'many' of type 'str' could not be converted to Integer",
    "train.py epochs=": "epochs: Value '' of type 'str' could not be converted to Integer",
    "train.py epochs=null": "epochs: Incompatible value 'None' for field of type 'int'",
    "train.py epochs=0": "epochs is 0: it must be 1 or more",
    "train.py seed=1.5": "seed: Value '1.5' of type 'float' could not be converted to Integer",
    "train.py seed=4294967296": "seed is 4294967296: it must be from 0 to 4294967295",
    "train.py batch_size=1e20": "batch_size: Value '1e+20' of type 'float'",
    f"train.py batch_size={10**20}": f"batch_size is {10**20}: it must be less than 2^63",
    f"train.py name={'x' * 300}": "it must be one line of text, of 200 bytes at most",
    "train.py augmentation.moex.probability=1.5": "must be in [0, 1]",
    "train.py augmentation.moex.eps=inf": "augmentation.moex.eps is inf: it must be a finite number",
    "train.py augmentation.steps=moex": "augmentation.steps: ",
    "train.py augmentation.steps=null": "augmentation.steps: field 'augmentation.steps' is not Optional",
    "train.py optimizer.lr=inf": "optimizer.lr is inf: it must be a finite number",
    "train.py optimizer.lr=abc": "optimizer.lr: Value 'abc' of type 'str' could not be converted to Float",
    "train.py optimizer.weight_decay=inf": "optimizer.weight_decay is inf: it must be a finite number",
    "train.py optimizer.momentum=nan": "optimizer.momentum is nan: it must be a finite number",
    "train.py schedule=step schedule.factor=inf": "schedule.factor is inf: it must be a finite number",
    "train.py schedule.warmup_epochs=-1": "schedule.warmup_epochs is -1.0: it must be 0 or more",
    "train.py schedule.milestones=[0.5": "cannot read 'schedule.milestones=[0.5'",
    "train.py 'dataset.root=a (1)'": "a VALUE with brackets or commas of its own is 'KEY=\"VALUE\"'",
    "train.py epochs": "cannot read 'epochs': an override is KEY=VALUE or GROUP=CHOICE",
    "train.py =3": "Config group override must be a string or a list",
    "train.py test_sets=3": "test_sets is 3: it must be a list of data sets, each a name",
    "train.py test_sets=[3]": "test_sets is 3: it must be a list of data sets, each a name",
    "train.py checkpoint=abc": "checkpoint is 'abc': it must be set by its keys",
    "train.py runtime.max_minutes=-1": "runtime.max_minutes is -1.0: it must be more than 0, or null",
    "train.py runtime.devices=-1": "runtime.devices is -1: it must be 1 or more",
    "train.py runtime.devices=0": "runtime.devices is 0: it must be 1 or more",
    "train.py runtime.devices=4096": "runtime.devices is 4096: it must be at most",
    "train.py runtime.node_rank=-1": "runtime.node_rank is -1: it must be from 0 to 0, since runtime.nodes is None",
    "train.py runtime.nodes=2": "each node needs its own runtime.node_rank",
    "train.py runtime.nodes=2 runtime.node_rank=2": "runtime.node_rank is 2: it must be from 0 to 1",
    "train.py runtime.rendezvous=here": "runtime.rendezvous is 'here': it must be HOST:PORT",
    "train.py runtime.rendezvous=node0:29500": "is 'node0:29500': it must be null, since runtime.nodes is None",
    "train.py runtime.precision=bf17": "runtime.precision is 'bf17': it must be one of fp32",
    "train.py runtime.device=cuda": "runtime.device is 'cuda' and this machine has no CUDA device",
    "train.py runtime.sync_batchnorm=true": "PyTorch has it for GPUs alone",
    "train.py batch_size=33 runtime.devices=2": "multiple of 2, such as 32 or 34",
    "train.py runtime.parts=3 runtime.devices=2": "runtime.parts is 3: it must be a multiple of the 2 devices",
    # Choices, and what is found by its name
    "train.py dataset=cifar11": "there is no dataset 'cifar11': the nearest are cifar10, cifar100",
    "train.py logger=mlflow": "there is no logger 'mlflow': it must be one of both, none",
    "train.py optimizer=3": "Config group override must be a string or a list",
    "train.py +experiment=digits_mox": "there is no experiment 'digits_mox': the nearest are digits_moex",
    "train.py experiment=digits_moex": "use +experiment=digits_moex",
    "train.py +study=weigh": "there is no study 'weigh': the nearest are weight",
    "train.py dataset.target=nothing.Nothing": "it must be MODULE.CLASS, seen from PYTHONPATH (No module named",
    "train.py dataset.target=json.JSONDecoder": "it must be a subclass of moex.data.dataset.DataSet",
    "train.py +augmentation.mine.target=nothing.Nothing": "augmentation.mine.target is 'nothing.Nothing': it must be",
    "train.py augmentation.moex.statistic=no.no": "it must be one of moments, components, order, or the import path",
    "train.py augmentation.moex.statistic=math.pi": "it must be a function of features and a permutation",
    "train.py augmentation.moex.statistic=math.sqrt": "it must be a function of features and a permutation",
    "train.py --config-dir=/nowhere": "directory '/nowhere' not found",
    "train.py --config-name=nothing": "Cannot find primary config 'nothing'",
    # Networks
    "train.py +model.options.width=3": "network 'resnet8' has no option 'width'",
    "train.py model.options.width=3": "network 'resnet8' has no option 'width'",
    "train.py +model.options.num_classes=3": "model.options.num_classes cannot be set: data set 'digits' decides it",
    "train.py model=pyramidnet110 +model.options.bottleneck=no": "bottleneck is 'no': it must be true or false",
    "train.py model=pyramidnet110 +model.options.bottleneck=7": "bottleneck is 7: it must be true or false",
    "train.py model=densenet_bc_100 +model.options.memory_saving=no": "memory_saving is 'no': it must be true",
    "train.py model=pyramidnet110 +model.options.alpha=inf": "model.options.alpha is inf: it must be a finite number",
    "train.py model=wrn28_10 +model.options.width=true": "width is True: it must be a whole number",
    "train.py model=wrn28_10 +model.options.width=100000000": "network 'wrn28' cannot be built with {'width'",
    "train.py model=wrn28_10 +model.options.width=10000": "has weights of 135,708 GiB: this machine has",
    "train.py model.name=resnet21": "6n+2, such as 20 or 26",
    "train.py model.name=resnet6000002": "resnet6000002: the depth is 10,000 at most",
    "train.py model.name=json:JSONDecoder": "network 'json:JSONDecoder'",
    "train.py model=timm +model.options.drop_path_rate=nan": "drop_path_rate is nan: it must be a finite number",
    "train.py model=timm +model.options.zero_init_last=no": "zero_init_last is 'no': it must be true or false",
    "train.py limit_train=9 batch_size=8 model=vgg11_bn": "a share of the last batch has a single one, on",
    "train.py model.weights=nowhere.pt": "model.weights is 'nowhere.pt': there is no such file",
    "train.py model.weights=torchvision": "it must be a file, or torchvision:NAME, since model.name is 'resnet8'",
    # Points
    "train.py augmentation.moex.layer=stm": "did you mean stem",
    "train.py augmentation.moex.layer=fc": "moments need features of 3 dimensions or more",
    "train.py augmentation.moex.norm=gn7": "norm 'gn7' does not divide 16 channels: K must be one of [1, 2",
    "train.py augmentation.moex.batch_dim=true": "augmentation.moex.batch_dim: Value 'True' of type 'bool' could not",
    "train.py augmentation.moex.batch_dim=1 augmentation.moex.channel_dim=1": "batch_dim and channel_dim are both 1",
    "train.py augmentation.moex.batch_dim=7": "batch_dim 7 does not fit features",
    "train.py augmentation.moex.norm=bn": "norm 'bn' cannot be exchanged",
    "train.py augmentation=dropblock augmentation.dropblock.points=[fc]": "a box needs 'fc' to be [B, C, H, W], not",
    "train.py moments.use=only moments.layer=nowhere": "no layer 'nowhere' in ResNet",
    # Data
    "train.py limit_train=99999": "limit_train is 99999: digits has 1257 such samples",
    "train.py dataset.validation=0.0001": "dataset.validation is 0.0001, of 1257 samples: ",
    "train.py +experiment=cifar100_resnet20_moex dataset.root=nowhere seed=3": "is missing. Fetch it with: python "
    "train.py +experiment=cifar100_resnet20_moex dataset.root=nowhere seed=3 dataset.download=true",
    "train.py dataset=speech_commands dataset.root=~/données": "données': it must hold Speech Commands 0.01, with a "
    "folder for each word, or speech_commands_v0.01.tar.gz. Fetch it with: python train.py dataset=speech_commands "
    "'dataset.root=~/données' dataset.download=true",
    "train.py dataset=image_folder dataset.root=nowhere": "dataset.root is 'nowhere': it must hold a folder train",
    "train.py output_root=/proc/nowhere": "/proc/nowhere",
    # Options, and what Hydra would do in silence, or elsewhere
    "train.py --flag": "there is no option '--flag'",
    "train.py --multi-run seed=1": "there is no option '--multi-run': the nearest are --multirun",
    "train.py --experimental-rerun nothing": "--experimental-rerun: leave it out; the same command continues a run",
    "train.py --experimental-rerun": "--experimental-rerun: expected one argument",
    "train.py --shell-completion": "--shell-completion needs install=bash",
    "train.py --cfg nothing": "invalid choice: 'nothing'",
    "train.py --cfg job --info": "--cfg and --info exclude each other: leave one out",
    "train.py -m --cfg job seed=0,1": "--cfg shows one run: leave --multirun out",
    "train.py --resolve": "--resolve belongs to --cfg or --help",
    "train.py ~epochs": "~epochs: what is left out has its default again, so set it: epochs=VALUE",
    "train.py ~optimizer": "~optimizer: what is left out has its default again, so set it: optimizer=VALUE",
    "train.py ~optimizer.lr": "~optimizer.lr: what is left out has its default again",
    "train.py hydra.job.chdir=true": "hydra.job.chdir: every path is seen from where",
    "train.py hydra.run.dir=elsewhere": "hydra.run.dir: a run has a folder of its own below output_root",
    "train.py hydra.output_subdir=x": "hydra.output_subdir: a run has a folder of its own below output_root",
    "train.py hydra/job_logging=default": "hydra/job_logging: a run has a folder of its own below output_root",
    "train.py hydra/hydra_logging=default": "hydra/hydra_logging: a run has a folder of its own below output_root",
    "train.py hydra.foo=1": "Could not override 'hydra.foo'",
    # Sweeps
    "train.py seed=0,1": "add --multirun",
    "train.py -m seed=0,1 model=resnet20,resnet21": "there is no model 'resnet21': the nearest are resnet",
    "train.py model=resnet20,resnet21 -m seed=0,1": "there is no model 'resnet21': the nearest are resnet",
    "train.py -m optimizer.lr=interval(0,1)": "a sweep takes lists of values",
    "train.py -m seed=range(0)": "seed=range(0): a sweep takes one value or more",
    "train.py -m seed=": "job 0: seed: Value ''",
    "train.py -m seed=0,abc epochs=0": "job 1: seed: Value 'abc'",
    "train.py -m seed=0,1 epochs=0": "epochs is 0: it must be 1 or more",
    "train.py -m schedule=step,plateau schedule.facto=0.5": "unknown key 'schedule.facto': the choices of schedule",
    "train.py -m dataset=cifar10,digits dataset.formt=folder": "unknown key 'dataset.formt': the nearest are",
    "train.py -m dataset=cifar10,digits dataset.format=folder": "dataset.format belongs to another choice of dataset",
    "train.py -m hydra/sweeper=basic seed=0,1": "hydra/sweeper is basic: it must be resuming",
    "train.py -m hydra.sweeper.jobs=nowhere.json": "hydra.sweeper.jobs is 'nowhere.json': it cannot be read",
    "train.py -m seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=0": "n_jobs is 0: it must be 1 or more, or -1",
    # Evaluations
    "evaluate.py": "say what is evaluated",
    "evaluate.py checkpoint=a predictions=b": "say what is evaluated",
    "evaluate.py checkpoint=nowhere": "there is no file of weights nowhere",
    "evaluate.py checkpoint=.": "is no run's folder: it holds no config.yaml",
    "evaluate.py predictions=nowhere.npz": "there is no file of predictions nowhere.npz",
    "evaluate.py predictions=[~/été.npz]": "été.npz",
    "evaluate.py checkpoint=a foo=1": "unknown key 'foo': the keys are checkpoint",
    "evaluate.py checkpoint=a dataset=digits dataset.foo=1": "unknown key 'dataset.digits.foo'",
    "evaluate.py checkpoint=a dataset=digit": "there is no dataset 'digit': the nearest are digits",
    "evaluate.py checkpoint=a temperature=2": "temperature is 2.0: it must be a share between 0 and 1",
    "evaluate.py checkpoint=a temperature=nan": "temperature is nan: it must be a finite number",
    "evaluate.py checkpoint=a weights=first": "weights is 'first': it must be last or best",
    "evaluate.py checkpoint=a table=x.txt": "table is 'x.txt': it must be a file .md or .csv",
    "evaluate.py checkpoint=[a": "cannot read 'checkpoint=[a'",
    "evaluate.py checkpoint=a ~seed": "~seed: what is left out has its default again",
    "evaluate.py checkpoint=a --flag": "there is no option '--flag'",
    "evaluate.py -m checkpoint=a,b": "--multirun: leave it out; checkpoint=[A,B] and test_sets=[A,B] take several",
    "evaluate.py checkpoint=a hydra.run.dir=x": "hydra.run.dir: a run has a folder of its own",
    # Scripts
    "scripts/report.py nowhere": "nowhere holds no finished run: no result.json is below it",
    "scripts/report.py ~/été --csv": "été holds no finished run",
    "scripts/sweep.py status nowhere": "there is no folder nowhere",
    "scripts/reproduce.py nothing": "there is no table 'nothing': it must be one of cifar,",
    "scripts/reproduce.py digits epochs=0 --plan": "epochs is 0: it must be 1 or more",
    "scripts/reproduce.py digits --budget 2": "--budget is 2: it must be more than 0 and at most 1",
    "scripts/cifar_as_folders.py out --root=~/nowhere": "nowhere",
}
# A sweep whose jobs are impossible for different reasons, each of which is told.
SEVERAL = "train.py -m seed=0,abc"
# What lies in the folder first, and a command line.
FILES = {
    "a run of a list": (
        {"run/config.yaml": "- 1"},
        "evaluate.py checkpoint=run",
        "run/config.yaml is damaged (it holds a list, not the keys of a run)",
    ),
    "a run of another version": (
        {"run/config.yaml": "foo: 1"},
        "evaluate.py checkpoint=run",
        "run/config.yaml is damaged, or of another version (unknown key 'foo'",
    ),
    "a run without checkpoints": (
        {"run/config.yaml": "epochs: 1"},
        "evaluate.py checkpoint=run",
        "there is no file of weights run/checkpoints/last.pt",
    ),
    "a text for weights": (
        {"a.pt": "text"},
        "evaluate.py checkpoint=a.pt model=resnet8 dataset=digits",
        "a.pt",
    ),
    "a text for initial weights": ({"a.pt": "text"}, "train.py model.weights=a.pt", "a.pt"),
    "a text for predictions": (
        {"a.npz": "text"},
        "evaluate.py predictions=a.npz",
        "a.npz must be an .npz file with the arrays logits and labels",
    ),
    "a result of nothing": (
        {"x/seed0/result.json": "{}"},
        "scripts/report.py x",
        "x/seed0 is not a finished run: result.json is damaged (it lacks name, seed, recipe, last, best)",
    ),
    "a result of null": (
        {"x/seed0/result.json": "null"},
        "scripts/report.py x",
        "x/seed0 is not a finished run: result.json is damaged (it holds null, not the outcome of a run)",
    ),
    "jobs of a text": (
        {"jobs.json": "text"},
        "train.py -m hydra.sweeper.jobs=jobs.json",
        "hydra.sweeper.jobs is 'jobs.json': it cannot be read",
    ),
    "jobs of a dictionary": (
        {"jobs.json": "{}"},
        "train.py -m hydra.sweeper.jobs=jobs.json",
        "hydra.sweeper.jobs is 'jobs.json': it must hold a list of lists of overrides",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def attempt():
    """Runs a command line in a fork, in a folder: its exit code, and what it printed."""
    with subprocess.Popen(
        [sys.executable, forks.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as server:

        def ask(command, folder):
            print(json.dumps([str(folder), shlex.split(command)]), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(attempt, command, folder, message):
    before = content(folder), sorted(folder.rglob("*"))
    code, printed = attempt(command, folder)
    assert message in printed
    assert code == 1, printed
    assert "Traceback" not in printed
    assert 1 <= len(printed.splitlines()) <= 1 + command.startswith(SEVERAL), printed
    assert printed.splitlines()[0].startswith("error: ")
    assert (content(folder), sorted(folder.rglob("*"))) == before


@pytest.mark.parametrize(("command", "message"), COMMANDS.items(), ids=[command[:80] for command in COMMANDS])
def test_a_wrong_command_line(attempt, tmp_path, command, message):
    refused(attempt, command, tmp_path, message)


@pytest.mark.parametrize(("files", "command", "message"), FILES.values(), ids=FILES)
def test_a_wrong_file(attempt, tmp_path, files, command, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    refused(attempt, command, tmp_path, message)


def test_what_is_asked_of_every_program(attempt, tmp_path):
    for script in ("train.py", "evaluate.py"):
        assert attempt(f"{script} --version", tmp_path) == [0, f"moex {moex.__version__}\n"]
        code, printed = attempt(f"{script} --shell-completion install=bash", tmp_path)
        assert (code, "hydra_bash_completion" in printed) == (0, True)
    code, printed = attempt("train.py seed=3 --cfg job output_root=~/été", tmp_path)
    assert (code, "output_root: ~/été" in printed, "seed: 3" in printed) == (0, True, True)


WRITTEN = {
    "output_root=~/x": "output_root='~/x'",
    "dataset.root=données": "dataset.root='données'",
    "checkpoint=[~/a,b,'~/c d']": "checkpoint=['~/a',b,'~/c d']",
    "test_sets=[{name: cifar10, root: ~/é}]": "test_sets=[{name: cifar10, root: '~/é'}]",
    "seed=range(0,3)": "seed=range(0,3)",
    "name=it is é, twice": "name='it is é', twice",
    "name=timm:é": "name='timm:é'",
    "~epochs": "~epochs",
    "--config-dir=~/é": "--config-dir=~/é",
}


@pytest.mark.parametrize(("argument", "understood"), WRITTEN.items())
def test_what_is_written_is_understood(argument, understood):
    assert understand(argument) == understood
    assert understand(understood) == understood
    if "'" not in argument:
        assert as_written(understood) == argument


def test_paths_in_a_home_folder_and_of_all_letters(attempt, tmp_path):
    """A run goes to its end there, and is found again."""
    quick = "epochs=1 limit_train=64 limit_test=50"
    for expected in ("AURRA", "nothing is left to train"):
        code, printed = attempt(f"train.py {quick} output_root=~/données", tmp_path)
        assert code == 0, printed
        assert expected in printed
    assert [path.name for path in tmp_path.iterdir()] == ["données"]
    (folder,) = tmp_path.glob("données/*/seed0")
    command = json.loads((folder / "result.json").read_text())["command"]
    assert command == f"python train.py {quick} 'output_root=~/données'"
    code, printed = attempt(f"evaluate.py checkpoint=~/données/{folder.parent.name}/seed0 output_root=é", tmp_path)
    assert code == 0, printed


def test_a_reader_that_has_seen_enough(tmp_path):
    """As `head` does: closed before anything is written."""
    script = "import sys; from moex.command_line import run_main; sys.exit(run_main(lambda: print('x' * 100_000)))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


X = torch.arange(96.0).reshape(4, 6, 2, 2).sin()
PERM = torch.tensor([1, 2, 3, 0])
LOGITS, LABELS = np.random.default_rng(0).normal(size=(10, 3)), np.zeros(10, int)


def network():
    return models.create("resnet8", num_classes=3)


def exchanged(perm, **options):
    return moex.exchange_moments(X, perm, **options)


def packed():
    return torch.nn.utils.rnn.pack_sequence([X[0, 0], X[0, 0, :1]])


def nested():
    return torch.nested.nested_tensor([X[0, 0], X[0, 0, :1]], layout=torch.jagged)


def swapped(perm, **options):
    model = network()
    with moex.MomentExchange(model, "stem", **options).swap(perm):
        return model(torch.ones(4, 3, 8, 8))


def mixed(labels, steps=(), num_classes=3):
    with moex.Mixing(network(), steps, num_classes=num_classes)(torch.ones(4, 3, 8, 8), labels):
        pass


def masked(values):
    return np.ma.masked_array(values, values > 0)


CALLS = {
    "perm beyond the batch": (lambda: exchanged(torch.tensor([0, 1, 2, 4])), ValueError, "from 0 to 4: .* to 3"),
    "perm negative": (lambda: exchanged(torch.tensor([0, 1, 2, -1])), ValueError, "from -1 to 2: they must be"),
    "perm without values": (lambda: exchanged(PERM.to("meta")), ValueError, "meta device, which holds no values"),
    "perm of another length": (lambda: exchanged(PERM[:3]), ValueError, "3 entries for a batch of 4 samples"),
    "perm of two dimensions": (lambda: exchanged(PERM[None]), ValueError, "1-D and int64 or int32, not 2-D"),
    "perm of floats": (lambda: exchanged(PERM.float()), ValueError, "int64 or int32, not 1-D and torch.float32"),
    "perm of a list": (lambda: exchanged([1, 2, 3, 0]), ValueError, "not a list; use torch.randperm"),
    "perm of nothing": (lambda: exchanged(None), ValueError, "not a NoneType"),
    "order, perm negative": (lambda: exchange_order(X, -PERM), ValueError, "from -3 to 0"),
    "components, perm beyond": (lambda: exchange_components(X, PERM + 1), ValueError, "from 1 to 4"),
    "half a component": (lambda: exchange_components(X, PERM, components=1.5), TypeError, "a whole number, not 1.5"),
    "swap, perm beyond the batch": (lambda: swapped(torch.tensor([0, 1, 2, 4])), ValueError, "values from 0 to 4"),
    "swap, perm negative": (lambda: swapped(torch.tensor([0, 1, 2, -1])), ValueError, "values from -1 to 2"),
    "swap, perm without values": (lambda: swapped(PERM.to("meta")), ValueError, "meta device"),
    "swap, perm of a list": (lambda: swapped([0, 1]), ValueError, "not a list"),
    "swap, perm of another length": (lambda: swapped(PERM[:2]), ValueError, "2 entries for a batch of 4 samples"),
    **{
        f"eps of {eps}": (lambda eps=eps: exchanged(PERM, eps=eps), ValueError, f"eps is {eps}: it must be more")
        for eps in (0, -1, float("nan"), float("inf"))
    },
    "eps of a text": (lambda: exchanged(PERM, eps="x"), TypeError, "eps must be a number, not a str"),
    "eps of nothing": (lambda: moex.moments(X, eps=None), TypeError, "eps must be a number, not a NoneType"),
    "eps of a hook": (lambda: moex.MomentExchange(network(), eps=0), ValueError, "eps is 0"),
    "eps of a step": (lambda: mixed(PERM, [moex.MoEx(eps=float("inf"))]), ValueError, "moex.eps is inf"),
    "norm of nothing": (lambda: moex.moments(X, None), TypeError, "norm must be a text, one of pono"),
    "norm of a hook": (lambda: moex.MomentExchange(network(), "stem", None), TypeError, "norm must be a text"),
    "unknown norm": (lambda: moex.moments(X, "abc"), ValueError, "unknown norm 'abc'"),
    "features of a list": (lambda: moex.moments([1.0]), TypeError, "features must be a tensor .* not a list"),
    "features of NumPy": (lambda: moex.moments(X.numpy()), TypeError, "features must be a tensor .* not a ndarray"),
    "features of integers": (lambda: moex.moments(X.int()), ValueError, "floating-point features, not torch.int32"),
    "features of two dimensions": (lambda: moex.moments(X[0, 0]), ValueError, "3 dimensions or more"),
    "half a dimension": (lambda: moex.moments(X, channel_dim=1.5), TypeError, "channel_dim must be a whole number"),
    "the dimension of the batch": (lambda: moex.moments(X, channel_dim=0), ValueError, "channel_dim 0 does not fit"),
    "half a dimension of samples": (
        lambda: moex.moments(X, batch_dim=1.5), TypeError, "batch_dim must be a whole number, not 1.5"
    ),
    "true for the samples": (lambda: exchanged(PERM, batch_dim=True), TypeError, "batch_dim must be a whole number"),
    "true for the samples of a hook": (
        lambda: moex.MomentExchange(network(), batch_dim=True), TypeError, "batch_dim must be a whole number"
    ),
    "samples beyond the dimensions": (
        lambda: exchanged(PERM, batch_dim=4), ValueError, "batch_dim 4 does not fit .* be 0 to 3, or -4 to -1"
    ),
    "samples before the dimensions": (lambda: moex.moments(X, batch_dim=-5), ValueError, "batch_dim -5 does not fit"),
    "samples beyond a hook's": (lambda: swapped(PERM, batch_dim=4), ValueError, "batch_dim 4 does not fit features"),
    "samples in the channels": (
        lambda: exchanged(PERM, batch_dim=1), ValueError, "dimension 1 is the batch, so it must be one of 0, 2, 3, or"
    ),
    "samples in a hook's channels": (
        lambda: swapped(PERM, batch_dim=1, channel_dim=1), ValueError, "batch_dim and channel_dim are both 1"
    ),
    "samples in a step's channels": (
        lambda: mixed(PERM % 3, [moex.MoEx(batch_dim=1, channel_dim=1)]), ValueError, "are both 1: they must"
    ),
    "samples in another dimension": (lambda: exchanged(PERM, batch_dim=3), ValueError, "4 entries for a batch of 2"),
    "packed lengths": (lambda: moex.moments(packed()), TypeError, "not a PackedSequence, whose samples may differ"),
    "nested lengths": (lambda: moex.moments(nested()), ValueError, "not a nested one, whose samples may differ"),
    "half a k": (lambda: metrics.accuracy(LOGITS, LABELS, k=1.5), TypeError, "k must be a whole number, not 1.5"),
    "no k": (lambda: metrics.accuracy(LOGITS, LABELS, k=0), ValueError, "k must be 1 to 3"),
    "half a bin": (lambda: metrics.expected_calibration_error(LOGITS, LABELS, bins=1.5), TypeError, "bins must be a"),
    "half a bin's size": (lambda: metrics.rms_calibration_error(LOGITS, LABELS, bin_size=2.5), TypeError, "bin_size"),
    "masked logits": (lambda: metrics.aurra(masked(LOGITS), LABELS), TypeError, "a masked array has no metrics"),
    "masked labels": (lambda: metrics.aurra(LOGITS, masked(LABELS)), TypeError, "a masked array has no metrics"),
    "logits without values": (lambda: metrics.aurra(X[0, 0].to("meta"), LABELS), TypeError, "on the meta device"),
    "logits of nothing": (lambda: metrics.aurra(None, LABELS), ValueError, r"must have the shapes \[N, K\]"),
    "logits of texts": (lambda: metrics.aurra([["a"]], [0]), ValueError, "logits must be floating point"),
    "logits of integers": (lambda: metrics.aurra([[1]], [0]), ValueError, "logits must be floating point"),
    "labels of floats": (lambda: metrics.aurra(LOGITS, LABELS + 0.5), ValueError, "labels must be integers"),
    "labels beyond the classes": (lambda: metrics.aurra(LOGITS, LABELS + 3), ValueError, r"labels are outside \[0"),
    "no samples": (lambda: metrics.aurra(LOGITS[:0], LABELS[:0]), ValueError, "there is no sample to score"),
    "logits of NaN": (lambda: metrics.aurra(LOGITS * np.nan, LABELS), ValueError, "10 of 10 samples have NaN"),
    "no corruption": (lambda: metrics.mean_corruption_error({}, {"fog": 1.0}), ValueError, "no errors on fog"),
    **{
        f"{classes!r} classes": (
            lambda classes=classes: models.create("resnet8", num_classes=classes),
            ValueError,
            f"num_classes is {classes!r}: it must be a whole number, 1 or more",
        )
        for classes in (0, -1, 1.5, True, "x", None)
    },
    "no channels": (lambda: models.create("resnet8", num_classes=2, in_channels=0), ValueError, "in_channels is 0"),
    "no name": (lambda: models.create(None, num_classes=2), TypeError, "the name of a network is None"),
    "no network": (lambda: models.create("nothing", num_classes=2), ValueError, "there is no network 'nothing'"),
    "a number for a network": (lambda: models.create("math:pi", num_classes=2), ValueError, "it is a float, not a"),
    "a network that is none": (lambda: models.create("types:SimpleNamespace", num_classes=2), ValueError, "network"),
    "true for a width": (lambda: models.create("wrn10", num_classes=2, width=True), ValueError, "be a whole number"),
    "a dropout of NaN": (lambda: models.create("wrn10", num_classes=2, dropout=np.nan), ValueError, "dropout is nan"),
    "an infinite pyramid": (
        lambda: models.create("pyramidnet20", num_classes=2, alpha=float("inf")), ValueError, "alpha is inf"
    ),
    "too many layers": (lambda: models.create("resnet60002", num_classes=2), ValueError, "depth is 10,000 at most"),
    "a text for a number, timm": (
        lambda: models.create("timm:resnet18", num_classes=2, drop_path_rate="x"),
        ValueError,
        "'timm:resnet18' cannot be built with drop_path_rate='x'",
    ),
    "no for a bool, torchvision": (
        lambda: models.create("torchvision:resnet18", num_classes=2, zero_init_residual="no"),
        ValueError,
        "zero_init_residual is 'no': it must be true or false",
    ),
    "groups that cannot be, torchvision": (
        lambda: models.create("torchvision:resnet18", num_classes=2, groups=7), ValueError, "built with groups=7"
    ),
    "no classes to mix": (lambda: mixed(PERM, num_classes=0), ValueError, "num_classes is 0: it must be 1 or more"),
    "a text for a step": (lambda: mixed(PERM, ["moex"]), TypeError, r"a step is 'moex': it must be a Step"),
    "a class for a step": (lambda: mixed(PERM, [moex.MoEx]), TypeError, "it must be a Step, such as moex.MoEx"),
    "a text for a model": (lambda: moex.MomentExchange("m"), TypeError, "the name of a layer are needed, not a str"),
    "nothing for a layer": (lambda: moex.MomentExchange(network(), None), TypeError, "needed, not a ResNet and None"),
    "labels beyond the classes, mixed": (lambda: mixed(PERM), ValueError, r"range of labels is \(0, 3\): it must be"),
    "labels negative, mixed": (lambda: mixed(-PERM), ValueError, r"range of labels is \(-3, 0\)"),
    "labels of floats, mixed": (lambda: mixed(PERM.float()), TypeError, "indices of classes, not torch.float32"),
    "labels of a list, mixed": (lambda: mixed([0, 1, 2, 0]), TypeError, "labels must be a tensor"),
    "labels of other samples, mixed": (lambda: mixed(PERM[:3]), ValueError, r"for 4 samples, not \[3\]"),
    "soft labels of other classes": (lambda: mixed(torch.ones(4, 5)), ValueError, "classes is 5: it must be 3"),
    "no run": (lambda: moex.load("/nowhere"), ValueError, "there is no file of weights /nowhere"),
    "other weights of a run": (lambda: moex.load("x", weights="first"), ValueError, "weights is 'first': it must be"),
    "no predictions": (lambda: read_predictions(forks.program.REPOSITORY / "no"), ValueError, "no file of predic"),
    "no data": (lambda: find("cifar10")(root="/nowhere").read(seed=0), MissingDataError, "/nowhere.* is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), CALLS.values(), ids=CALLS)
def test_a_wrong_call(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 2


def test_there_are_enough_of_them():
    assert len(COMMANDS) + len(FILES) + len(CALLS) >= 150
