"""The recipe of a synthesis: from documents to training questions, stage by stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from megatron_longrlvr.config.chat import (
    ChatBreakerConfig,
    ChatEndpointConfig,
    ChatRetryConfig,
    StructuredOutput,
)
from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.config.training import RunSection

# Replies come in one piece, and a model that reasons first takes minutes for it.
_PATIENT = ChatRetryConfig(read_timeout_s=1800.0, total_timeout_s=3600.0)


class ReadConfig(Section):
    """Where documents come from."""

    paths: list[str] = Field(min_length=1)
    """Files, folders (read with all below them) and patterns such as ``books/**/*.pdf``. Kinds go
    by the ending: text, Markdown, HTML, PDF, source code; JSON lines and parquet, where each row
    is a document. Files of other kinds are dropped and counted."""

    text_field: str = "text"
    """Field of a row in JSON lines and parquet that holds the document."""

    code_suffixes: list[str] = [
        *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".java", ".js", ".ts", ".go"),
        *(".rs", ".rb", ".php", ".swift", ".kt", ".scala", ".jl", ".sh", ".sql", ".lua", ".cs"),
    ]
    """Endings of source code, whose language is not looked at."""


class CleanConfig(Section):
    """Which documents are used."""

    tokenizer: str
    """Hugging Face folder whose tokens all lengths count."""

    min_tokens: int = Field(default=8192, gt=0)
    max_tokens: int = Field(default=65_536, gt=0)
    longer: Literal["drop", "split"] = "drop"
    """What a document above ``max_tokens`` does: it is left out, or becomes several documents, cut
    where its text is cut most naturally."""

    languages: list[str] = []
    """Codes of ISO 639-1 that are kept, e.g. ``[en, zh]``; empty for all. Source code passes."""

    near_duplicate_similarity: float = Field(default=0.8, ge=0.5, le=1)
    """Share of five-word shingles from which two documents count as the same; the first stays."""

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}: no document "
                "would be left"
            )
        return self


class ChunkConfig(Section):
    """How documents are cut; see ``data/chunking.py``."""

    max_tokens: int = Field(default=512, gt=0)


class TfidfSvdConfig(Section):
    """Latent semantic analysis of each document by itself: offline, fast, blind to paraphrase."""

    kind: Literal["tfidf_svd"]
    dims: int = Field(default=32, gt=1)
    """Singular vectors kept; fewer where the document has fewer chunks."""


class EncoderConfig(Section):
    """An encoder from a local Hugging Face folder, such as BGE-M3."""

    kind: Literal["encoder"]
    path: str
    pooling: Literal["cls", "mean"] = "cls"
    """What stands for a chunk: the first token's state (BGE), or the mean over all tokens."""

    prefix: str = ""
    """Written before each chunk, for models that want it."""

    max_tokens: int = Field(default=8192, gt=0)
    """Of a chunk with its special tokens; a longer one ends the run rather than being cut."""

    batch_size: int = Field(default=16, gt=0)
    device: str = "cpu"
    """As torch spells it, e.g. ``cuda``."""


class EmbeddingServerConfig(Section):
    """A server that speaks OpenAI's embeddings, e.g. vLLM with BGE-M3."""

    kind: Literal["server"]
    model: str = Field(min_length=1)
    endpoints: list[ChatEndpointConfig] = Field(min_length=1)
    batch_size: int = Field(default=64, gt=0)
    """Chunks of one request."""

    price_per_million_tokens: float = Field(default=0.0, ge=0)
    retry: ChatRetryConfig = ChatRetryConfig()
    breaker: ChatBreakerConfig = ChatBreakerConfig()


EmbedConfig = Annotated[
    TfidfSvdConfig | EncoderConfig | EmbeddingServerConfig, Field(discriminator="kind")
]


class ClusterConfig(Section):
    """HDBSCAN over the chunks of one document, with the released pipeline's settings."""

    min_cluster_size: int = Field(default=4, ge=2)
    min_samples: int = Field(default=2, gt=0)
    selection_epsilon: float = Field(default=0.3, ge=0)
    """Cosine distance below which clusters are not divided further: 1 - the least similarity, 0.7,
    which fits BGE-M3; other embeddings have other scales."""

    selection_method: Literal["eom", "leaf"] = "eom"
    min_chunks: int = Field(default=4, ge=1)
    """Of a cluster that is used."""

    max_chunks: int = Field(default=16, ge=1)
    min_clusters: int = Field(default=4, ge=1)
    """Usable clusters of a document that is used."""

    drawn: int = Field(default=4, ge=1)
    """Clusters of a document that questions are written about, drawn from ``run.seed``."""

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> Self:
        if self.min_chunks > self.max_chunks:
            raise ValueError(
                f"min_chunks={self.min_chunks} is above max_chunks={self.max_chunks}: no cluster "
                "would be left"
            )
        return self


class ChatModelConfig(Section):
    """A language model behind OpenAI's chat completions."""

    model: str = Field(min_length=1)
    """Name that the endpoints know the model by."""

    endpoints: list[ChatEndpointConfig] = Field(min_length=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(gt=0)
    """Of a reply, reasoning included. A reply that reaches it counts as unusable."""

    structured_output: StructuredOutput = "json_schema"
    """How the server is told the form of a reply; models that reason in the reply itself need
    ``none``. The reply is held against the same grammar whatever is set here."""

    extra: dict[str, Any] = {}
    """Further fields of a request, e.g. ``{top_k: 20, chat_template_kwargs: {enable_thinking:
    false}}`` for vLLM."""

    attempts: int = Field(default=3, gt=0)
    """Replies asked for, each with a seed of its own, before an item is given up because none was
    of the right form."""

    price_per_million_prompt_tokens: float = Field(default=0.0, ge=0)
    """For estimates and the progress display; so is the next."""

    price_per_million_reply_tokens: float = Field(default=0.0, ge=0)
    retry: ChatRetryConfig = _PATIENT
    breaker: ChatBreakerConfig = ChatBreakerConfig()


class GenerateConfig(Section):
    """Candidates of question, answer and evidence, written about a cluster."""

    model: str
    """Name in ``models``; so in the other stages."""

    template: str = "question-1"
    """Prompt shipped in ``data/synthesis/templates``, or a YAML file of yours; so in the others."""

    candidates_per_cluster: int = Field(default=3, gt=0)
    min_evidence: int = Field(default=2, gt=0)
    """Chunks that a question must rest on."""

    max_answer_words: int = Field(default=40, gt=0)


class ScoreConfig(Section):
    """Ratings of each candidate from 1 to 10 for clarity, correctness and evidence."""

    model: str
    template: str = "rating-1"


class SelectConfig(Section):
    """Best of each cluster, then best of the document, then the threshold.

    The score is the mean of the three ratings (how the paper puts them together is not known).
    """

    min_score: float = Field(default=9.0, ge=1, le=10)


class AnswerCheckConfig(Section):
    """How a model's answer is compared with the reference."""

    verifier: Literal[
        "exact", "normalized", "unordered", "number", "date", "yes_no", "list", "containment"
    ] = "normalized"
    """Goes first; as ``rewards.answer`` in training."""

    judge: JudgeConfig | None = None
    """Decides what the verifier leaves undecided; null for none, where that counts as wrong. Its
    ``cache`` and ``outage`` have no effect: replies are kept with the stage, and a verdict that is
    missing is asked for again by the next start."""


class DifficultyConfig(Section):
    """What a small model can do: questions that it answers too easily teach nothing."""

    model: str
    closed_book_template: str = "closed-book-1"
    document_template: str = "document-1"
    closed_book_attempts: int = Field(default=2, ge=0)
    """Answers without the document."""

    document_attempts: int = Field(default=4, ge=0)
    """Answers with it."""

    max_closed_book_right: float = Field(default=0.0, ge=0, le=1)
    """Share of right answers without the document above which a question is dropped."""

    max_document_right: float = Field(default=0.75, ge=0, le=1)
    """Likewise with it. Removing hard questions made the paper's models worse, so there is no lower
    limit unless the next is set."""

    min_document_right: float = Field(default=0.0, ge=0, le=1)


class EvidenceConfig(Section):
    """Whether the evidence is what the answer rests on, tried with a strong model."""

    model: str
    template: str = "passages-1"
    closed_book_template: str = "closed-book-1"
    closed_book: bool = True
    """Drop what is answered without any text."""

    leave_one_out: bool = True
    """Drop what is answered without one of its evidence chunks."""


class ExportConfig(Section):
    """The training file."""

    data_source: str = Field(default="longrlvr_synthesis", min_length=1)
    max_prompt_tokens: int = Field(gt=0)
    """Longest prompt, chat markup included, in tokens of ``clean.tokenizer``."""


class SynthesisConfig(Section):
    """A synthesis: ``longrlvr data``."""

    kind: Literal["synthesis"]
    run: RunSection
    models: dict[str, ChatModelConfig] = Field(min_length=1)
    """Language models by the names that the stages use."""

    read: ReadConfig
    clean: CleanConfig
    chunk: ChunkConfig = ChunkConfig()
    embed: EmbedConfig
    cluster: ClusterConfig = ClusterConfig()
    generate: GenerateConfig
    score: ScoreConfig
    select: SelectConfig = SelectConfig()
    answers: AnswerCheckConfig = AnswerCheckConfig()
    difficulty: DifficultyConfig | None
    """null leaves the stage out."""

    evidence: EvidenceConfig | None
    """null leaves the stage out."""

    export: ExportConfig
