"""Finds the target in a cluster and watches its pool. Only `client` and `credentials` import `kubernetes`.

cluster = await connect()                                      NoClusterError: why there is none
found = await discover(cluster, "media/turn", "auto")          UserError: what is missing
watch = PoolWatch(cluster, found.service.ref, found.port.port, emit, family=family_of(found.service, address))
why_not = await watch.start()                                  None: the pool is watched
watch.request_confirmation(analysis.next_list_after_ns)                       as often as time passes
await watch.stop(); await cluster.close()
"""
