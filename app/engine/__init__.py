"""The engine between the routes and the model: an image and texts in, outputs and stage times out.

1. `engine.Engine` takes a request, `admission.Admission` counts it or refuses it, and the replica that has the image
   (or the least to do) gets it.
2. There `loading.ImageLoader` decodes the image in a thread, once for all who ask for it; `cache.ImageCache` says what
   is kept.
3. `batcher.Batcher` holds what waits (`jobs`) and puts together the next `jobs.Batch`, when the worker is free.
   `writing.Writers` has the answers that are written token by token.
4. `dispatch.Dispatcher` sends the batch as one message (`messages`) to the replica's `protocol.Worker`:
   `local.LocalWorker`, a process.
5. In that process (`worker`), `model_runner.ModelRunner` encodes and runs; the dispatcher hands each result to its
   request. On a CPU the workers are forks of one process that has loaded what they share (`fork_server`).

`replica.Replica` keeps a worker alive: it replaces one that dies. `devices` gives each worker its GPU. Nothing is
imported here, so that the worker loads its own modules alone.
"""
