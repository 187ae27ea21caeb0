"""What an experiment does to a cluster: actions, their undo, and what keeps two experiments apart.

context = ActionContext(...)                                  base
action = action_of("scale-up", context, ActionOptions())      select    UserError: there is no action of this name
await action.prepare()                                                  UserError: why it cannot be done here
await check_rights(api, action.rights())                      rights    UserError: which rights are missing
async with ExperimentLease(context):                          lease     UserError: another experiment runs
    steps = await mend(context)                               mend      what a killed run left is brought back
    services = await MatrixServices(context, base, ...).create()   matrix_services
    await action.act(); await action.wait_settled(limit_s)              NotSettledError: what is missing
    await action.undo(); await action.wait_undone(limit_s)              after any failure, too, and twice
"""
