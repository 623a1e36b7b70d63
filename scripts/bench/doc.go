// Command bench compares ways through a load balancer on one machine: plain forwarding, the kernel's
// own DNAT (nft), tunlb on a TUN device, as a virtual router, on the box's own interfaces and with the kernel
// carrying what is established, HAProxy and nginx; and, where client and server are on one Ethernet segment, the kernel's
// bridge, tunlb's direct routing on a TAP, on an interface and between two TAPs. Beside each way there is the bare
// loop of it, without table and checks (bare.go, ring.go), and that of wireguard/tun (wireguard.go).
// `make bench` runs it.
//
// Samples (measure.go) become figures (figures.go), and these tables (report.go), verdicts on targets
// (targets.go; of Go benchmarks gobench.go), a record that later runs are compared with (record.go), and a chart (chart.go).
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
