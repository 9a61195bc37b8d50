"""ChatVLM: a LangChain chat model over an engine. Prompts repeat the sampled tokens of earlier replies exactly."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from difflib import get_close_matches
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from vtagent._moved import old_attribute, renamed_arguments
from vtagent.errors import ModelError
from vtagent.images import ImageStore, default_store
from vtagent.models.call import Call, Options, count_tokens, plan, shown_images, tool_options
from vtagent.models.codec import Codec
from vtagent.models.engine import Engine, EngineImage, Generation
from vtagent.models.loading import LoadedEngine, load_checkpoint, open_server
from vtagent.models.placeholders import expand
from vtagent.models.streaming import as_chunk, put_token, seconds_left
from vtagent.views import ViewRenderer
from vtagent.visual_tokens import VisionSpec


class ChatVLM(BaseChatModel):
    """A vision-language chat model that resolves `vtimg://` references itself and keeps the token ids of its replies.

    Args:
        engine: The `Engine` that samples tokens.
        processor: The checkpoint's processor (`VLProcessor`): its tokenizer, chat template and image sizes are used.
        image_store: The store that holds the images of messages; this process's own if absent. Images that messages
            contain as data are put there.

    Example:
        >>> model = ChatVLM.from_pretrained("base", temperature=1.0)  # doctest: +SKIP
        >>> model.invoke([HumanMessage([View(ref).block(), "What is the total?"])])  # doctest: +SKIP
    """

    engine: Any = Field(exclude=True, repr=False)
    processor: Any = Field(exclude=True, repr=False)
    image_store: Any = Field(default_factory=default_store, exclude=True, repr=False)
    model_name: str = Field(default="vtagent", alias="model")
    checkpoint: str = Field(default_factory=lambda: uuid.uuid4().hex, repr=False)
    """Tells the weights from all others, for LangChain's caches; unique where nothing is known of them."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1 keeps all tokens."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Makes tokens that were there before less likely; 1 does not."""
    max_tokens: int = 8192
    """Maximum length of a reply, its thought included, in tokens. A reply that reaches it is cut, and gives no answer
    unless that was complete."""
    seed: int | None = None
    """Makes sampling repeatable; None samples anew on each call."""
    stop: list[str] | None = None
    """Texts that end a reply. They are not part of it."""
    timeout: float | None = None
    """Seconds after which a call fails with ModelError; None waits without limit."""
    images_first: bool = True
    """Show the images of a human message before its text, in whatever order they were sent. The bundled policies are
    trained on that order alone and read worse in the other; some clients, such as Agent Chat UI, send the text first.
    False shows a message as it was sent."""

    resolves_images: bool = Field(default=True, init=False, repr=False)
    """Tells the graph that messages may keep references: this model renders their pixels itself."""

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    _codec: Codec = PrivateAttr()
    _renderer: ViewRenderer = PrivateAttr()

    @renamed_arguments(store="image_store")
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    store = old_attribute("store", "image_store")

    def model_post_init(self, context: Any, /) -> None:
        """Build what all calls share."""
        super().model_post_init(context)
        self._codec = Codec(self.processor.tokenizer, self.processor.chat_template)
        self._renderer = ViewRenderer(self.image_store, self.vision)

    @classmethod
    @renamed_arguments(store="image_store")
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        *,
        image_store: ImageStore | None = None,
        device: str | None = None,
        dtype: Any = None,
        engine_options: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> ChatVLM:
        """Load a dense Qwen3-VL or Qwen2.5-VL checkpoint with transformers.

        If you set none of `temperature`, `top_p`, `top_k` and `repetition_penalty`, those of the checkpoint's
        generation_config.json apply, as its authors recommend.

        Args:
            path: A folder, a hub id, or the name of a bundled policy ("base", "zoom").
            image_store: The store that holds the images of messages; this process's own if absent.
            device: A torch device; a GPU if available, else "cpu", if absent.
            dtype: A torch dtype; bfloat16 on a GPU and mostly float32 on a CPU, if absent.
            engine_options: Other options of `TransformersEngine.from_pretrained`: `device_map`, `memory_bytes`,
                `max_rows`, `cache_tokens`, ….
            **defaults: Fields of this class, such as `temperature` or `max_tokens`.

        Raises:
            ModelError: There is no usable checkpoint, or torch and transformers are not installed.
            TypeError: One of `defaults` is not a field.
        """
        cls._check_fields(defaults)
        options = {"device": device, "dtype": dtype, **(engine_options or {})}
        return cls._over(load_checkpoint(path, options), image_store, defaults)

    @classmethod
    @renamed_arguments(store="image_store")
    def from_server(
        cls,
        url: str,
        processor: str | PathLike[str],
        *,
        image_store: ImageStore | None = None,
        engine_options: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> ChatVLM:
        """Use a model that `vllm serve` has loaded (docs/serve.md says how to start it).

        Args:
            url: The server's URL, with or without `/v1`.
            processor: The source of the served checkpoint's tokenizer and image processor: a folder, a hub id, or the
                name of a bundled policy.
            image_store: The store that holds the images of messages; this process's own if absent.
            engine_options: Options of `VLLMEngine`, such as `timeout`, `retries` or `model`.
            **defaults: Fields of this class, such as `temperature` or `max_tokens`.

        Raises:
            ModelError: There is no such server or processor, or a package that they need is not installed.
            TypeError: One of `defaults` is not a field.
        """
        cls._check_fields(defaults)
        return cls._over(open_server(url, processor, engine_options or {}), image_store, defaults)

    @classmethod
    def _over(cls, loaded: LoadedEngine, image_store: ImageStore | None, defaults: Mapping[str, Any]) -> ChatVLM:
        fields: dict[str, Any] = {"model": loaded.name, "checkpoint": loaded.identity}
        if not loaded.recommended.keys() & defaults:
            fields |= loaded.recommended
        if image_store is not None:
            fields["image_store"] = image_store
        return cls(engine=loaded.engine, processor=loaded.processor, **{**fields, **defaults})

    @classmethod
    def _check_fields(cls, defaults: Mapping[str, Any]) -> None:
        """Refuse unknown fields before a model is loaded; pydantic would silently drop them.

        Raises:
            TypeError: One of `defaults` is not a field.
        """
        fields = [*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias)]
        for name in defaults:
            if name not in fields:
                meant = "".join(f": {close} is meant?" for close in get_close_matches(name, fields, 1))
                raise TypeError(f"{cls.__name__} has no field {name}{meant}")

    @property
    def vision(self) -> VisionSpec:
        """The image sizes that the model sees."""
        vision: VisionSpec = self.processor.vision
        return vision

    def prompt_ids(self, messages: Sequence[BaseMessage], **options: Any) -> list[int]:
        """The prompt that a call would send, collapsed: with one placeholder per image.

        Args:
            messages: As for `invoke`.
            **options: Call options, such as `tools` or `tool_choice`.
        """
        return list(self._plan(messages, None, options).request.token_ids)

    def images(self, messages: Sequence[BaseMessage]) -> list[EngineImage]:
        """The rendered images of messages, in the order of their placeholders."""
        return list(shown_images(messages, store=self.image_store, renderer=self._renderer))

    def expand(self, ids: Sequence[int], images: Sequence[EngineImage]) -> list[int]:
        """Repeat each placeholder of collapsed ids once per visual token of its image.

        Args:
            ids: As `prompt_ids` returns them.
            images: One per placeholder, as `images` returns them.
        """
        return expand(ids, images, self.vision, self._codec.image_token_id)

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens of a text, as a message shows it: control tokens in it, such as `<|im_end|>`, are only words.

        Args:
            text: The text.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._codec.encode(self._codec.defuse(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The tokens of the prompt of a call, images and tools included: `input_tokens` of its `usage_metadata`.

        Nothing is asked of the engine, so `trim_messages(token_counter=model)` works offline.

        Args:
            messages: The conversation; an empty one counts 0.
            tools: The tools that are offered, as for `bind_tools`.

        Raises:
            ModelError: The model cannot be shown one of the messages.
            ImageError: The store does not know an image, or refuses it.
        """
        return count_tokens(
            messages,
            tools,
            codec=self._codec,
            vision=self.vision,
            store=self.image_store,
            images_first=self.images_first,
        )

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model.

        Args:
            tools: Anything that LangChain can convert to a tool schema.
            tool_choice: "auto" lets the model decide; "none" shows the tools but forbids calls; "any", "required" or
                True force a call; a tool's name forces a call of that tool.
            **kwargs: Other call options.
        """
        return self.bind(**tool_options(tools, tool_choice), **kwargs)

    @property
    def _llm_type(self) -> str:
        return "vtagent"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("model_name", "checkpoint", "images_first", *Options.defaults)}

    def _resolve_model_profile(self) -> ModelProfile:
        profile = ModelProfile(
            text_inputs=True,
            image_inputs=True,
            image_url_inputs=False,
            image_tool_message=True,
            text_outputs=True,
            tool_calling=True,
            tool_choice=True,
            max_output_tokens=self.max_tokens,
        )
        engine: Engine = self.engine
        if engine.context is not None:
            profile["max_input_tokens"] = engine.context
        return profile

    def _plan(self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, options: Mapping[str, Any]) -> Call:
        chosen = {name: getattr(self, name) for name in Options.defaults} | {**options}
        stops = stop if stop is not None else self.stop or ()
        return plan(
            messages,
            Options.of(chosen, stops),
            codec=self._codec,
            store=self.image_store,
            renderer=self._renderer,
            images_first=self.images_first,
        )

    def _submit(self, call: Call, show: Callable[[int], None] | None = None) -> Future[Generation]:
        engine: Engine = self.engine
        return engine.submit(call.request_with(show))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self.engine.announce():
            call = self._plan(messages, stop, kwargs)
            future = self._submit(call)
        try:
            generation = future.result(self.timeout)
        except TimeoutError:
            raise self._timeout_error() from None
        finally:
            future.cancel()
        return self._result(call.message(generation, self.model_name))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self.engine.announce():
            call = await asyncio.to_thread(self._plan, messages, stop, kwargs)
            future = self._submit(call)
        try:
            generation = await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)
        except TimeoutError:
            raise self._timeout_error() from None
        return self._result(call.message(generation, self.model_name))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        tokens: SimpleQueue[int | None] = SimpleQueue()
        left = seconds_left(self.timeout)
        with self.engine.announce():
            call = self._plan(messages, stop, kwargs)
            future = self._submit(call, tokens.put)
        future.add_done_callback(lambda _: tokens.put(None))
        streamer = call.streamer()
        try:
            while (token := self._next(tokens, left())) is not None:
                if text := streamer.push(token):
                    yield as_chunk(AIMessageChunk(content=text))
            yield as_chunk(streamer.last_chunk(call.message(future.result(), self.model_name)))
        finally:
            future.cancel()

    def _next(self, tokens: SimpleQueue[int | None], left: float | None) -> int | None:
        try:
            return tokens.get(timeout=left)
        except Empty:
            raise self._timeout_error() from None

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop = asyncio.get_running_loop()
        tokens: asyncio.Queue[int | None] = asyncio.Queue()
        left = seconds_left(self.timeout)
        with self.engine.announce():
            call = await asyncio.to_thread(self._plan, messages, stop, kwargs)
            future = self._submit(call, lambda token: put_token(loop, tokens, token))
        future.add_done_callback(lambda _: put_token(loop, tokens, None))
        streamer = call.streamer()
        try:
            while (token := await self._anext(tokens, left())) is not None:
                if text := streamer.push(token):
                    yield as_chunk(AIMessageChunk(content=text))
            yield as_chunk(streamer.last_chunk(call.message(future.result(), self.model_name)))
        finally:
            future.cancel()

    async def _anext(self, tokens: asyncio.Queue[int | None], left: float | None) -> int | None:
        if not tokens.empty():  # a waiting token is in time, however long the caller took over the last one
            return tokens.get_nowait()
        try:
            return await asyncio.wait_for(tokens.get(), left)
        except TimeoutError:
            raise self._timeout_error() from None

    def _result(self, message: AIMessage) -> ChatResult:
        return ChatResult(
            generations=[ChatGeneration(message=message)],
            llm_output={"model_name": self.model_name},
        )

    def _timeout_error(self) -> ModelError:
        return ModelError(f"no complete reply within {self.timeout} seconds; raise timeout or lower max_tokens")
