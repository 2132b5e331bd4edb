"""One function per operator, by family; ``table.load`` finds them.

Each follows its operator's page of https://onnx.ai/onnx/operators/, in all opsets unless it says
otherwise.
"""
