/* Entry points that the TensorRT Python bindings link against, and no TensorRT behind them: classes, enumerations and
   calibrator trampolines are real, whatever needs a builder is not. The mangled names are the Caffe and UFF parsers of
   TensorRT 8. */
#define ENTRY(symbol) void *symbol(void) { return 0; }
#define MANGLED(name, symbol) void *name(void) __asm__(symbol); ENTRY(name)

ENTRY(createInferBuilder_INTERNAL)
ENTRY(createInferRefitter_INTERNAL)
ENTRY(createInferRuntime_INTERNAL)
ENTRY(createNvOnnxParser_INTERNAL)
ENTRY(createNvOnnxParserRefitter_INTERNAL)
ENTRY(getBuilderPluginRegistry)
ENTRY(getNvOnnxParserVersion)
ENTRY(getPluginRegistry)
ENTRY(initLibNvInferPlugins)
MANGLED(uff_parser, "_ZN11nvuffparser15createUffParserEv")
MANGLED(uff_shutdown, "_ZN11nvuffparser23shutdownProtobufLibraryEv")
MANGLED(uff_field_map, "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi")
MANGLED(caffe_parser, "_ZN14nvcaffeparser117createCaffeParserEv")
MANGLED(caffe_shutdown, "_ZN14nvcaffeparser123shutdownProtobufLibraryEv")
