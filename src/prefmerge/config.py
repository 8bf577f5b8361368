"""The configuration of a run of fine-tuning: every number of the papers' recipe, with the papers' values as defaults.

Read from YAML, checked, resolved (defaults spelled out) and kept in the run folder as `config.yaml`; a resolved
configuration reads back as itself. Source of the values: both papers, section 4.1 of Tunable MAGMAX, and the authors'
released code where the papers are silent. Errors name file, key, the value found and the nearest known key. Cost: one
small file. Not here: whether models and data exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from prefmerge.errors import ConfigError
from prefmerge.ground.checked import checked
from prefmerge.ground.yaml_file import Section
from prefmerge.runs import Training

ADAPTER_LEARNING_RATE = 2e-4  # of the LoRA paper's order, and PEFT's own examples'


class ModelConfig(Section):
    """Which encoder. A string in the file stands for `{id: STRING}`."""

    id: str  # hub id or local folder; open_clip: ARCHITECTURE/PRETRAINED (a tag, or a file of weights)
    # auto: from the folder's config.json. classifier: its own logits are the embeddings, for `adapt`; not trained.
    kind: Literal["auto", "clip", "open_clip", "vision", "sentence", "classifier"] = "auto"
    revision: str | None = None  # of the hub
    pooling: Literal["auto", "cls", "mean", "pooler"] = "auto"  # vision: cls; sentence: mean
    logit_scale: float | None = Field(default=None, gt=0)  # None: the model's own (CLIP), else 20
    image_size: int | None = Field(default=None, gt=0)  # vision: pixels a side; None: as preprocessor_config.json says
    max_length: int = Field(default=64, gt=0)  # tokens of a text; longer ones are cut (sentence encoders only)


class DataConfig(Section):
    """One data set. A string in the file stands for `{name: STRING}`: a registered name, an image folder or a CSV."""

    name: str  # a registered name, a folder of images, a CSV, or a hub id
    path: str | None = None  # a local copy, in the layout of the hub, in place of the hub
    test: str | None = None  # folder or CSV of test samples; None: the registry's, or a seeded fifth of the samples
    input: str | None = None  # column of the image or text; None: the registry's, or the first of image, img, text, ...
    label: str | None = None  # column of the label
    # Column of the domain, for domain-incremental runs; `folder`: images lie in DOMAIN/CLASS/IMAGE.
    domain: str | None = None
    classes: tuple[str, ...] | None = None  # class names in the order of the labels; None: the data set's
    templates: tuple[str, ...] | None = None  # prompts with one {} each; None: the registry's, or "a photo of a {}."
    kind: Literal["auto", "image", "text"] = "auto"  # of the inputs; auto: as the column is
    revision: str | None = None  # of the hub
    train_per_class: int | None = Field(default=None, gt=0)  # at most so many training samples of a class
    test_per_class: int | None = Field(default=None, gt=0)  # at most so many test samples of a class
    epochs: int | None = Field(default=None, gt=0)  # of its tasks; None: training.epochs, else the papers'
    # Ids of samples that are left out; `unreadable`: the images that cannot be read, which the run then lists.
    skip: Literal["unreadable"] | tuple[str, ...] | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [str(name) for name in value] if isinstance(value, list | tuple) else value

    @field_validator("templates")
    @classmethod
    def _one_place(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for template in value or ():
            if template.count("{}") != 1:
                raise ValueError(f"the template {template!r} needs exactly one {{}}, where the class name goes")
        return value


class ScenarioConfig(Section):
    """How the samples become tasks."""

    # auto: datasets where there are several, else class-incremental
    kind: Literal["class-incremental", "domain-incremental", "datasets", "auto"] = "auto"
    # Class-incremental only: how many, or the classes of each, {shoes: [Sandal, Boot], bags: [Bag]}. None: 5.
    tasks: int | dict[str, tuple[str, ...]] | None = None
    class_order: str | tuple[str, ...] = "auto"  # natural, A, B, C, imagenet_r, random, or names; auto: the papers'
    domain_order: tuple[str, ...] | None = None  # None: the papers', else the data set's own

    @field_validator("tasks", mode="plain")
    @classmethod
    def _number_or_names(cls, value: Any) -> Any:
        if value is None or (type(value) is int and value > 0):
            return value
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(own, list | tuple) and own for own in value.values())
        ):
            return {str(name): tuple(map(str, own)) for name, own in value.items()}
        raise ValueError("expected a number of tasks, or tasks by name, each with its classes: {shoes: [Sandal, Boot]}")

    @field_serializer("tasks")
    def _with_lists(self, value: Any) -> Any:
        return {name: list(own) for name, own in value.items()} if isinstance(value, dict) else value


class LwfConfig(Section):
    """Learning without Forgetting: + coefficient * CE(softmax(old / temperature), softmax(new / temperature))."""

    coefficient: float = Field(default=0.3, ge=0)  # of the old answers, beside the labels
    temperature: float = Field(default=2.0, gt=0)  # of both answers; above 1 it evens them out


class EwcConfig(Section):
    """Elastic Weight Consolidation: + coefficient / 2 * sum F (theta - theta_prev)^2."""

    coefficient: float = Field(default=1e6, ge=0)  # of the penalty on what earlier tasks need
    decay: float = Field(default=0.5, ge=0, le=1)  # F <- decay F + (1 - decay) F_task
    fisher_samples: int | None = Field(default=None, gt=0)  # per task, drawn without replacement; None: all


class AdapterConfig(Section):
    """A LoRA adapter in place of all weights: W + alpha / rank * B A, and only A and B are trained."""

    rank: int = Field(default=16, gt=0)  # r: rows of A, columns of B
    alpha: float | None = Field(default=None, gt=0, validate_default=True)  # None: twice the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of what A takes
    # Endings of the names of linear layers, as PEFT has them: [q_proj, v_proj]. None: all linear layers.
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)

    @field_validator("alpha")
    @classmethod
    def _spelled_out(cls, value: float | None, info: ValidationInfo) -> float | None:
        return 2.0 * info.data["rank"] if value is None and "rank" in info.data else value


class TrainingConfig(Section):
    """How every task is fine-tuned."""

    # sequential: each task from the checkpoint before it; independent: from the base; joint: one task with all classes.
    method: Training = "sequential"
    epochs: int | None = Field(default=None, gt=0)  # None: the papers' for a registered data set, else 10
    batch: int = Field(default=128, gt=0)  # samples of one step, over all processes
    micro_batch: int | None = Field(default=None, gt=0)  # samples in memory at once, per process; None: the whole batch
    learning_rate: float = Field(default=1e-5, gt=0)  # of an adapter: 2e-4 where nothing is said
    adapter: AdapterConfig | None = None  # None: all weights are trained, as in the papers
    weight_decay: float = Field(default=0.1, ge=0)  # AdamW's
    # Of each task. None: 500 for the papers' data sets, as in both papers; a tenth of the task's steps for other data.
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)  # instead of warmup_steps: of each task's steps
    clip_norm: float | None = Field(default=1.0, gt=0)  # of all gradients together; None: no clipping
    augmentation: bool = True  # images: random resized crop
    crop_scale: tuple[float, float] = (0.9, 1.0)  # of the image's area
    logit_scale: float | None = Field(default=None, gt=0)  # in the training loss; None: the head's own
    lwf: LwfConfig = LwfConfig()
    ewc: EwcConfig = EwcConfig()
    precision: Literal["no", "fp16", "bf16"] = "no"  # accelerate's mixed precision; the papers train in float32
    device: Literal["auto", "cpu"] = "auto"  # auto: an accelerator, where there is one
    fused: bool = True  # PyTorch's one-kernel AdamW; not the same last bits as the other
    # PyTorch's threads on a CPU. None: its own choice; 1: the same bytes on any machine.
    threads: int | None = Field(default=None, gt=0, le=4096)
    # Processes that read images. None: up to 4, and 0 for text.
    workers: int | None = Field(default=None, ge=0, le=4096)
    # Epochs between two states that a task can resume from. None: it starts again from its first epoch.
    save_every: int | None = Field(default=1, gt=0)

    @field_validator("precision", mode="before")
    @classmethod
    def _no(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML reads a bare no as false

    @field_validator("adapter", mode="before")
    @classmethod
    def _by_kind(cls, value: Any) -> Any:
        return {} if value == "lora" or value is True else value

    @model_validator(mode="before")
    @classmethod
    def _of_an_adapter(cls, value: Any) -> Any:
        """Few parameters that start from nothing take larger steps."""
        if isinstance(value, Mapping) and value.get("adapter") not in (None, False):
            return {"learning_rate": ADAPTER_LEARNING_RATE, **value}
        return value

    @model_validator(mode="after")
    def _checked(self) -> TrainingConfig:
        if self.adapter is not None and self.method in ("lwf", "ewc"):
            raise ValueError(
                f"an adapter and {self.method} do not go together: {self.method} is of whole models. Take sequential, "
                "or leave adapter out"
            )
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("warmup_steps and warmup_fraction say the same thing twice; give one")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, found {list(self.crop_scale)}")
        return self


class FinetuneConfig(Section):
    """A whole run."""

    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    scenario: ScenarioConfig = ScenarioConfig()
    head: Literal["auto", "text", "prototype"] = "auto"  # auto: text where there is a text side
    training: TrainingConfig = TrainingConfig()
    # Samples of each task that training does not see and the run keeps, for where the data cannot be read. One number,
    # or one for each task. None: a tenth of the task, at most 100. 0: none, as in the papers.
    held_out: int | tuple[int, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)  # of batches, augmentation, dropout and every split

    @model_validator(mode="before")
    @classmethod
    def _tasks_by_name(cls, value: Any) -> Any:
        """`tasks` beside `data` is what people write first; it belongs to the scenario."""
        if not isinstance(value, Mapping) or "tasks" not in value:
            return value
        scenario = value.get("scenario", {})
        scenario = {"kind": scenario} if isinstance(scenario, str) else scenario
        if not isinstance(scenario, Mapping) or "tasks" in scenario:
            raise ValueError("`tasks` stands twice, here and in `scenario`; leave one out")
        rest = {name: own for name, own in value.items() if name != "tasks"}
        return {**rest, "scenario": {**scenario, "tasks": value["tasks"]}}

    @field_validator("held_out", mode="plain")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        several = value if isinstance(value, list | tuple) else [0 if value is None else value]
        if not several or any(type(one) is not int or one < 0 for one in several):
            raise ValueError(
                "expected a number of samples of each task (0 keeps none), or a list with one number for each task"
            )
        return tuple(value) if isinstance(value, list | tuple) else value

    @field_serializer("held_out")
    def _as_list(self, value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value  # pydantic warns of a tuple beside a number

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _trained(cls, value: ModelConfig) -> ModelConfig:
        if value.kind == "classifier":
            raise ValueError(
                "kind classifier is for `adapt`: fine-tuning trains an encoder under a frozen head; leave kind at auto"
            )
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _data_by_name(cls, value: Any) -> Any:
        several = value if isinstance(value, list | tuple) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in several]

    @field_validator("scenario", mode="before")
    @classmethod
    def _scenario_by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def make_config(mapping: Mapping[str, Any], where: str = "configuration") -> FinetuneConfig:
    """The configuration that a mapping holds. Raises ConfigError; `where` is what its message begins with."""
    return checked(FinetuneConfig, dict(mapping), where, ConfigError)
