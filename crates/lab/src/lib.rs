//! Local clusters out of network namespaces: topology files, the node agent, a cluster's controllers, drills.
