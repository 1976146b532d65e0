"""Outside the bridges only documented parts of the libraries are used; a new name is looked up."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = sorted((ROOT / "dspy_demo").rglob("*.py"))
LIBRARIES = {"dspy", "gradio", "mlflow", "starlette", "uvicorn"}
#: What the libraries' own documentation names, by module or class.
DOCUMENTED = """
dspy: Adapter BaseLM BestOfN ChainOfThought ChatAdapter History Image InputField JSONAdapter LM
  Module OutputField Predict Prediction ReAct Reasoning Refine Signature ToolCalls asyncify
  configure context lm15 settings
dspy.lm15: AsyncLMRouter AuthError BillingError ContextLengthError InvalidRequestError LM15Error
  Message ProviderError RateLimitError Request Response RouterConfig ServerError StreamDeltaEvent
  StreamEndEvent StreamEvent StreamStartEvent TextDelta TimeoutError Timeouts UnsupportedModelError
  Usage amaterialize_response
dspy.lm15.Message: assistant
dspy.settings: adapter callbacks lm send_stream
dspy.utils.callback: BaseCallback
dspy.utils: exceptions
dspy.utils.exceptions: AdapterParseError LMAuthError LMBillingError LMConfigurationError LMError
  LMInvalidRequestError LMNotConfiguredError LMProviderError LMRateLimitError LMServerError
  LMTimeoutError LMTransportError LMUnexpectedError LMUnsupportedFeatureError
  LMUnsupportedModelError is_retryable_lm_error
gradio: Accordion Blocks BrowserState Button Chatbot Checkbox Column Dropdown EditData Error
  EventData HTML InputHTMLAttributes LikeData Radio Request RetryData Row SelectData Sidebar State
  Tab Tabs Textbox Timer UndoData api mount_gradio_app on skip themes update
gradio.components: Component
gradio.themes: Base colors sizes
gradio.themes.colors: teal zinc
gradio.themes.sizes: radius_md
mlflow: __version__ MlflowClient artifacts dspy models pyfunc set_registry_uri set_tracking_uri
mlflow.artifacts: download_artifacts
mlflow.dspy: load_model save_model
mlflow.entities: Span SpanType
mlflow.entities.SpanType: CHAIN CHAT_MODEL TOOL
mlflow.entities.model_registry: ModelVersion RegisteredModel
mlflow.exceptions: MlflowException
mlflow.models: Model ModelSignature get_model_info
mlflow.models.Model: load
mlflow.models.rag_signatures: CHAT_COMPLETION_RESPONSE_SCHEMA
mlflow.pyfunc: load_model
mlflow.tracing.constant: CostKey SpanAttributeKey TokenUsageKey TraceTagKey
mlflow.tracing.constant.CostKey: TOTAL_COST
mlflow.tracing.constant.SpanAttributeKey: CHAT_USAGE INPUTS LLM_COST MESSAGE_FORMAT MODEL
  MODEL_PROVIDER OUTPUTS SESSION_ID SPAN_TYPE TRACE_TAG_PREFIX USER_ID
mlflow.tracing.constant.TokenUsageKey: INPUT_TOKENS OUTPUT_TOKENS TOTAL_TOKENS
mlflow.tracing.constant.TraceTagKey: TRACE_NAME
mlflow.types.schema: AnyType Array ColSpec DataType Object Property Schema
mlflow.types.schema.DataType: string
starlette.applications: Starlette
starlette.datastructures: Headers MutableHeaders QueryParams
starlette.exceptions: HTTPException
starlette.middleware: Middleware
starlette.middleware.gzip: GZipMiddleware
starlette.middleware.cors: CORSMiddleware
starlette.requests: ClientDisconnect Request
starlette.responses: HTMLResponse JSONResponse RedirectResponse Response
starlette.types: ASGIApp Message Receive Scope Send
uvicorn: Config Server
"""


def is_bridge(path: Path) -> bool:
    return path.stem.endswith("_bridge")


def names_of(path: Path) -> Iterator[str]:
    """Every dotted name of a library that a module imports or reaches through what it imported."""
    tree = ast.parse(path.read_text())
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in known:
                yield ".".join([known[inner.id], *reversed(parts)])


def documented() -> set[str]:
    names = set()
    for line in DOCUMENTED.replace("\n  ", " ").strip().splitlines():
        module, _, members = line.partition(": ")
        names |= {module, *(f"{module}.{member}" for member in members.split())}
    return names


def test_outside_the_bridges_only_documented_parts_are_used():
    known = documented() | LIBRARIES
    for path in CODE:
        used = {name for name in names_of(path) if name.partition(".")[0] in LIBRARIES}
        if not is_bridge(path):
            assert used <= known, path.name


def test_no_attribute_of_somebody_else_begins_with_an_underscore():
    trees = {path: ast.parse(path.read_text()) for path in CODE if not is_bridge(path)}
    own = {"_exit", "_replace"}  # of `os` and of named tuples: Python documents them
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                own |= {node.attr} if node.value.id in {"self", "cls"} else set()
    for path, tree in trees.items():
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        foreign = {name for name in attributes - own if name.startswith("_") and not name.startswith("__")}
        assert not foreign, path.name


def test_no_style_and_no_script_leans_on_a_class_of_gradio():
    ui = ROOT / "dspy_demo/ui"
    given = re.findall(r'"(.*?)"', " ".join(path.read_text() for path in ui.rglob("*.html")))
    given += re.findall(
        r'class="(.*?)"|elem_classes(.*)', " ".join(path.read_text() for path in ui.rglob("*.py"))
    )
    known = set(re.findall(r"[\w-]+", str(given)))
    # Gradio documents two for styles of one's own; the others are of Prism's code and KaTeX's formulas.
    known |= {"gradio-container", "dark", "katex", "katex-display", "token"}
    for path in (ui / "assets").iterdir():
        css = path.suffix == ".css"
        text = re.sub(
            r"/\*.*?\*/|url\(.*?\)|\.token\.[\w-]+|//.*?$|\$\{.*?\}", "", path.read_text(), flags=re.S | re.M
        )
        selectors = re.findall(r"([^{}]+)\{" if css else r"([\"`])([^\"`\n]*)\1", text)
        classes = {name for one in selectors for name in re.findall(r"\.([a-z][\w-]*)", str(one))}
        assert not classes - known, path.name


def test_no_comment_outside_the_bridges_names_a_version_of_a_library():
    libraries = "|".join(LIBRARIES | {"litellm"})
    version = re.compile(rf"({libraries})\W{{1,3}}\d+\.\d+|\W\(\d+\.\d+(\.\d+)?\)", re.IGNORECASE)
    for path in (ROOT / "dspy_demo").rglob("*"):
        if path.suffix in {".py", ".css", ".js", ".html"} and not is_bridge(path):
            assert not version.search(path.read_text()), path.name


def test_no_file_and_no_function_is_too_long_to_be_read():
    for path in CODE:
        text = path.read_text()
        assert len(text.splitlines()) <= 420, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                described = len((ast.get_docstring(node, clean=False) or "").splitlines())
                assert (node.end_lineno or 0) - node.lineno - described < 40, (path.name, node.name)
