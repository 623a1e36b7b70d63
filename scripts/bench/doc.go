// Command bench compares ways through a load balancer on one machine: plain forwarding, the kernel's
// own DNAT (nft), tunlb on a TUN device and as a virtual router, the bare loop of tunlb's design without
// table and checks, HAProxy and nginx; and, where client and server are on one Ethernet segment, the kernel's
// bridge, tunlb's direct routing on a TAP, on an interface and between two TAPs, and the bare loop of that.
// `make bench` runs it.
//
//	client 198.51.100.7 ── 198.51.100.1 LB 192.168.0.100 ── 192.168.0.10:8080 server
//	                        203.0.113.22:80 is the VIP
//
//	client 203.0.113.7 ──┬── 203.0.113.10:80 server, which has the VIP as well
//	                     LB 203.0.113.2
//
// Client, LB and server are network namespaces joined by veth pairs, a set of three for each subject,
// all set up before the first figure is taken: what follows one another within seconds is the same load
// over different subjects, so that the ratios stand where the machine drifts. The subjects that don't
// have their turn sleep. The load is generated here (client.go, server.go), so nothing needs to
// be installed; subjects whose program is missing are named and left out.
//
// The namespaces are anonymous and the files are in a tmpfs of our own mount namespace: nothing is left
// behind, however the program ends.
package main
