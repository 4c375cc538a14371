"""Reads Core ML specifications: the version, which decides the oldest system, and what kind of model it is.

github.com/apple/coremltools, mlmodel/format/Model.proto and MIL.proto. Models of a pipeline count as well.
"""

from collections.abc import Mapping
from typing import Final

from airpack.facts.notes import Notes
from airpack.facts.protobuf import BYTES, DEPTH, VARINT, Field, fields, text
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import CoremlFacts

READER: Final = "coreml/1"

_TYPES: Final[Mapping[int, str]] = {  # fields of the oneof Type
    200: "pipelineClassifier",
    201: "pipelineRegressor",
    202: "pipeline",
    300: "glmRegressor",
    301: "supportVectorRegressor",
    302: "treeEnsembleRegressor",
    303: "neuralNetworkRegressor",
    304: "bayesianProbitRegressor",
    400: "glmClassifier",
    401: "supportVectorClassifier",
    402: "treeEnsembleClassifier",
    403: "neuralNetworkClassifier",
    404: "kNearestNeighborsClassifier",
    500: "neuralNetwork",
    501: "itemSimilarityRecommender",
    502: "mlProgram",
    555: "customModel",
    556: "linkedModel",
    600: "oneHotEncoder",
    601: "imputer",
    602: "featureVectorizer",
    603: "dictVectorizer",
    604: "scaler",
    606: "categoricalMapping",
    607: "normalizer",
    609: "arrayFeatureExtractor",
    610: "nonMaximumSuppression",
    900: "identity",
    2000: "textClassifier",
    2001: "wordTagger",
    2002: "visionFeaturePrint",
    2003: "soundAnalysisPreprocessing",
    2004: "gazetteer",
    2005: "wordEmbedding",
    2006: "audioFeaturePrint",
    3000: "serializedModel",
}
_ONEOF: Final = range(200, 3001)
_PIPELINES: Final = frozenset({200, 201})  # which hold a pipeline, as field 1
_PIPELINE: Final = 202  # which holds models, as field 1
_PROGRAM: Final = 502
_SECOND: Final = 2
_LARGEST: Final = 1 << 31
_MODELS: Final = 4096
_TEXT: Final = 200  # bytes of the name of an opset


def read(reader: Reader, notes: Notes) -> CoremlFacts:
    """Return what a Core ML specification says.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    walk = _Walk(reader, notes)
    kind = walk.model((0, BYTES, 0, 0, reader.size), 1)
    return CoremlFacts(
        specification=walk.specification,
        type=kind,
        opsets=tuple(sorted(walk.opsets)),
        parts=tuple(sorted(walk.parts)),
    )


class _Walk:
    """Walks a model, and those inside it.

    Attributes:
        specification: The highest version so far.
        opsets: Those of programs.
        parts: Kinds of models inside.
    """

    def __init__(self, reader: Reader, notes: Notes) -> None:
        self.specification = 0
        self.opsets: set[str] = set()
        self.parts: set[str] = set()
        self._reader = reader
        self._notes = notes
        self._models = 0

    def model(self, message: Field, depth: int) -> str:
        """Return what kind a model is."""
        _, wire, _, start, stop = message
        self._models += 1
        if wire != BYTES or depth > DEPTH or self._models > _MODELS:
            raise MalformedError("a model is no message, or there are too many inside each other", start)
        kind, version = "", 0
        for each in fields(self._reader, start, stop):
            number = each[0]
            if number == 1:
                if version or each[1] != VARINT or not 0 < each[2] < _LARGEST:
                    raise MalformedError("a model has two versions, or one that cannot be", each[3])
                version = each[2]
                self._version(version, each)
            elif number in _ONEOF:
                if kind:
                    raise MalformedError("a model is of two kinds", each[3])
                kind = _TYPES.get(number, f"type-{number}")
                self._inside(number, each, depth + 1)
        return kind

    def _version(self, version: int, each: Field) -> None:
        if version > self.specification:
            self.specification = version
            self._notes.places["specification"] = each[3:]

    def _inside(self, number: int, message: Field, depth: int) -> None:
        _, wire, _, start, stop = message
        if wire != BYTES:
            raise MalformedError("a model is no message", start)
        if number in _PIPELINES:
            for each in fields(self._reader, start, stop):
                if each[0] == 1:
                    self._inside(_PIPELINE, each, depth + 1)
        elif number == _PIPELINE:
            for each in fields(self._reader, start, stop):
                if each[0] == 1:
                    self.parts.add(self.model(each, depth + 1))
        elif number == _PROGRAM:
            self._program(message)

    def _program(self, message: Field) -> None:
        """Note the opsets of a program's functions, a map from name to function: all are the second field of theirs."""
        for function in fields(self._reader, *message[3:]):
            if function[0] != _SECOND or function[1] != BYTES:
                continue
            for entry in fields(self._reader, *function[3:]):
                if entry[0] == _SECOND and entry[1] == BYTES:
                    for each in fields(self._reader, *entry[3:]):
                        if each[0] == _SECOND:
                            name = text(self._reader, each, _TEXT)
                            self.opsets.add(name)
                            self._notes.at(f"opsets.{name}", *each[3:])
                        if len(self.opsets) > _MODELS:
                            raise MalformedError(f"more than {_MODELS} opsets", each[3])
