"""The capture on a GPU: Triton kernels, static buffers, and the class that hooks call (`capture.Capture`).

`attn_kernels.reference` is the definition. Importing these modules imports triton; nothing else here does.
"""
