// Command torture does to tunlb what is done to load balancers: floods, servers that die, devices that go, kills, reloads
// and starts by the thousand. Each case (cases.go) prints its figures beside their targets, and the proof that
// the attack happened: a figure without it is a failure as well. It ends with 1 if a figure is below its target.
// `make torture` runs it; docs/endurance.md says what each case has shown. The tests run the same code with smaller
// numbers, and each has a negative control: the same case with its protection off, which must fail.
//
//	client 198.51.100.7 ── eth0 lb eth1 ── lan ── rs1, rs2, rs3 192.168.0.10 to .12
//	                       203.0.113.22 is the VIP; tunlb runs on lb, in a process of its own
//
// The networks are labnet's, of kernel namespaces; clients and servers are goroutines here (traffic.go, transfers.go), the
// flood is a packet socket's (flood.go). It owns none of the product: what it knows of tunlb is its commands, its control socket
// and its log (site.go). Nothing of the machine's own network, and none of its clocks, is
// touched, and nothing is left behind.
package main
