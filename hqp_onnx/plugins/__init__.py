"""hqp_onnx inside other tools: thin adapters over ``steps``, one module per host, which alone imports it.

    functions            ModelProto -> ModelProto                              onnx
    polygraphy_loaders   lazy loaders                                          polygraphy
    polygraphy_run       runners of ``polygraphy run``                         polygraphy
    data_loader          DATA as a script for ``--data-loader-script``         polygraphy
    ir                   in-place passes                                       onnx_ir
    olive                passes of an Olive workflow                           olive

The passes of ``hqp_onnx.passes`` take and return onnx-graphsurgeon graphs, and need no adapter for it.
"""
