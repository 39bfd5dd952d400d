"""The engine between the routes and the model: images and texts in, outputs and stage times out.

`engine.Engine.run` is all that a route needs. Behind it: `admission.Admission` bounds what is accepted,
`replica.Replica` keeps a worker alive, `cache.ImageCache` says what is encoded already, `batcher.Batcher` puts
requests together, `local` is the parent's end of the worker and `worker` the process that holds the model. Nothing is
imported here, so that the worker loads its own module alone.
"""
