// Package nft owns what the kernel's packet filter (nf_tables, family netdev, hook ingress) does for tunlb: a Guard keeps
// from the kernel what packet sockets take from the box's own interfaces, and a Carrier has it carry connections that
// tunlb has opened. Their tables belong to a netlink socket and vanish with it, however the process ends. It does not
// decide which connections, and knows no routes.
package nft
