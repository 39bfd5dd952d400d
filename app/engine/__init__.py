"""The engine between the routes and the model: an image and texts in, outputs and stage times out.

1. `engine.Engine` takes a request, `admission.Admission` counts it or refuses it, and the replica that has the image
   (or the least to do) gets it.
2. `replica.Replica` decodes the image in a thread, once for all who ask for it; `cache.ImageCache` says what is kept.
3. `batcher.Batcher` holds what waits (`jobs`) and puts together the next `jobs.Batch`, when the worker is free.
4. The batch goes as one message (`messages`) to the replica's `protocol.Worker`: `local.LocalWorker`, a process.
5. That process (`worker`) holds the model, encodes, runs, replies; the replica hands each result to its request.

Nothing is imported here, so that the worker loads its own modules alone. `devices` gives each worker its GPU.
"""
