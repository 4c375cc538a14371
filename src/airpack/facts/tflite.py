"""Reads TFLite (LiteRT) models: versions of the schema and of operators, types, and whether all data is there.

github.com/google-ai-edge/LiteRT, schema.fbs, version 3d.
"""

from collections import Counter
from typing import Final

from airpack.facts import flatbuffer
from airpack.facts.flatbuffer import I8, I32, U32, U64, Table
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import TfliteFacts

READER: Final = "tflite/1"

# Fields of Model.
_VERSION, _CODES, _SUBGRAPHS, _BUFFERS, _METADATA, _GROUPS, _EXTERNAL = 0, 1, 2, 4, 6, 8, 9
_CUSTOM: Final = 32
_TEXT: Final = 512  # bytes of a name
_KINDS: Final = 4096  # operators, or files, of one model
_LARGEST: Final = 2**53 - 1
_MIN_RUNTIME: Final = "min_runtime_version"
_TYPE_NAMES: Final = (  # TensorType
    "FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64 RESOURCE VARIANT "
    "UINT32 UINT16 INT4 BFLOAT16 INT2 UINT4 FLOAT8_E4M3FN FLOAT8_E5M2"
)
_OPERATOR_NAMES: Final = (  # BuiltinOperator; 207 and beyond mean different things to different readers
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR "
    "FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC "
    "LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH "
    "SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN "
    "GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM "
    "STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST "
    "PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV "
    "SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD "
    "REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE "
    "ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V "
    "UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG "
    "ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM "
    "BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS "
    "HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE "
    "ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU "
    "DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 "
    "UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE "
    "STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE "
    "STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE "
    "STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG "
    "STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT "
    "STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT "
    "STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL "
    "STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE "
    "STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE"
)
_TYPES: Final = tuple(_TYPE_NAMES.split())
_OPERATORS: Final = tuple(_OPERATOR_NAMES.split())


def read(reader: Reader, notes: Notes) -> TfliteFacts:
    """Return what a TFLite model says.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    model = flatbuffer.root(reader)
    subgraphs, tensors = _subgraphs(model)
    return TfliteFacts(
        version=model.number(_VERSION, U32),
        operators=_operators(model, notes),
        subgraphs=subgraphs,
        tensors=tensors,
        min_runtime=_buffers(reader, model, notes),
        external=_external(model),
    )


def _operators(model: Table, notes: Notes) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for code in model.tables(_CODES):
        name = _operator(code)
        notes.at(f"operators.{name}", code.start, code.stop)
        found.setdefault(name, set()).add(code.number(2, I32, 1))
        if len(found) > _KINDS:
            raise MalformedError(f"more than {_KINDS} operators", code.start)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


def _operator(code: Table) -> str:
    """Return the name of an operator, whose number is the larger one of an old field of one byte and a new one."""
    number = max(code.number(0, I8), code.number(3, I32))
    if number == _CUSTOM:
        return f"CUSTOM:{code.text(1, _TEXT)}"
    return _OPERATORS[number] if 0 <= number < len(_OPERATORS) else f"CODE-{number}"


def _subgraphs(model: Table) -> tuple[int, dict[str, int]]:
    count, tensors = 0, Counter[str]()
    for subgraph in model.tables(_SUBGRAPHS):
        count += 1
        for tensor in subgraph.tables(0):
            kind = tensor.number(1, I8)
            tensors[_TYPES[kind] if 0 <= kind < len(_TYPES) else f"type-{kind}"] += 1
    return count, dict(tensors)


def _buffers(reader: Reader, model: Table, notes: Notes) -> str:
    """Hold that all data lies in the file, and return the oldest runtime that the metadata names."""
    wanted = {data.number(1, U32) for data in model.tables(_METADATA) if data.text(0, _TEXT) == _MIN_RUNTIME}
    found = ""
    for number, buffer in enumerate(model.tables(_BUFFERS)):
        start, count = buffer.vector(0, 1)
        offset, size = buffer.number(1, U64), buffer.number(2, U64)
        if offset > 1 and offset + size > reader.size:
            notes.problem(f"buffer {number} ends at byte {offset + size}; the file has {reader.size}", buffer.start)
        if number in wanted and 0 < count <= _TEXT:
            found = reader.exactly(start, count).split(b"\0")[0].decode("ascii", "replace")
            notes.at("min_runtime", start, start + count)
    return found


def _external(model: Table) -> dict[str, int]:
    """Return the files that hold tensors, and how long each must be."""
    names = [group.text(0, _TEXT) for _, group in zip(range(_KINDS), model.tables(_GROUPS), strict=False)]
    found = dict.fromkeys(names, 0)
    for buffer in model.tables(_EXTERNAL):
        group = buffer.number(1, U32)
        if group >= len(names):
            raise MalformedError(f"a tensor lies in file {group} of {len(names)}", buffer.start)
        end = buffer.number(2, U64) + buffer.number(3, U64)
        found[names[group]] = min(max(found[names[group]], end), _LARGEST)
    return found
