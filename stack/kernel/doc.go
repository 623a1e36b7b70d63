// Package kernel owns what the Linux kernel must be told so that packets reach tunlb's devices:
// addresses, routes, policy rules and sysctls of one network namespace. They are applied idempotently,
// undone by Close, and after a crash by Clean or by the next run. It does not own the device (stack/port
// makes it, with its MTU) and knows nothing of what happens to the packets.
//
// # Rules
//
// All rules, routes, proxy neighbours and (from Linux 5.18 on) addresses carry protocol 174; by that number, and
// by nothing else, they are found again. No file is needed. Table 7474 has `default dev TUN`. The rules
// of a family exist only if the State uses the family; they are looked at in this order:
//
//	7410  iif TUN lookup local                     what tunlb writes is for the box
//	7411  iif TUN goto 7499                        or goes where the box's other rules say: no loops
//	7429  to OWN ipproto udp dport OTHER lookup    where UDP (or TCP) to an address of the box is led away as a whole,
//	      local                                    what shows a port of the box's: see below
//	7430  to VIP lookup 7474                       a VIP that is not the box's own address; else
//	      to VIP ipproto tcp dport N lookup 7474   only its services, by port or range of ports,
//	      to VIP ipproto udp lookup 7474           UDP as a whole if there is a UDP service (see Ports),
//	      to VIP ipproto icmp lookup 7474          and ICMP
//	7431  to MASQUERADE lookup 7474                likewise a gateway's masquerade address; the box's own by
//	      ... dport FIRST-LAST, UDP and ICMP       its port range, UDP as a whole
//	7432  to VIP ipproto tcp lookup 7474           a service with all ports, or with 65535, at an address of the box
//	7440  lookup local                             only if moved here, see below
//	7441  from RS ipproto tcp sport N lookup 7474  answers of the real servers, but not those to the box itself;
//	      from RS ipproto udp lookup 7474          UDP as a whole
//	7442  from RS ipproto tcp lookup 7474          answers from all ports, or from 65535
//	7449  iif lo goto 7499                         of the rest nothing that the box itself sends
//	7450  ipproto icmp lookup 7474                 ICMP errors of the servers and of routers on the way
//	7461  to INSIDE goto 7499                      gateways: not what stays inside,
//	7462  from INSIDE lookup 7474                  but all else
//	7480  nop ...                                  notes, see Forwarding
//	7499  nop                                      the landing of goto
//
// The kernel's `lookup local` stays at preference 0 unless the box itself has a VIP or a masquerade address.
// Then it moves to 7440: first ours is added there, then the one at 0 deleted; on the way back the
// one at 0 comes first. So there is always one, and whatever is no service's, such as ssh to the VIP,
// reaches the box without a detour. Where the administrator has moved the rule behind 7440 nothing is moved; one between
// 0 and 7440 is an error, as it would hide the VIP.
//
// The kernel tries the rules one after the other, at some 20 ns each. So real servers that answer from the same ports are
// taken together where their addresses fill a prefix: a thousand in a row have about ten rules. A thousand here and
// there have a thousand, which cost each packet that the box forwards some 20 us.
//
// To delete a rule the kernel takes the first of its preference that has all of what it is told, and more may it have. So the
// rules for all ports have preferences of their own (7432, 7442): they would take one for a single port along.
//
// 7411 is a goto and not `lookup main`, so that boxes with several uplinks or with VRFs route what tunlb sends by their own rules.
//
// # What tunlb must hand back
//
// Rules see less than tunlb, so more than its flows arrives. It must write these back unchanged, and they go on as
// if nothing had happened: any UDP from a real server, any ICMP that the box forwards, any UDP and ICMP to a VIP of the box,
// TCP and ICMP to a masquerade address of the box, and TCP from a real server's service port (all its TCP where that may be
// any, or 65535). Where a service of a VIP of the box has many ports, TCP to these as well: see next.
//
// # What tunlb can't hand back
//
// The kernel looks for the socket of a packet before it asks the rules (early demultiplexing: TCP, and UDP if the
// socket is connected), and forwards no packet that it has found one for. What a socket of the box waits for must
// never be led to the device: it would not even get there. So 7441 stands behind the local table, or the box's own
// connections to a server (health checks!) would hang as soon as the local rule is moved. The answers of tunlb's
// flows are for clients or, where the box or a neighbour of the server is the client, for tunlb's own address: none
// is for the box. Likewise the ports of a masquerade address of the box must be outside of its ip_local_port_range.
//
// A range of ports, or all, at a VIP of the box cannot avoid the box's own sockets: connections that it has opened from the
// VIP, an ssh session to it that is older than the service. There the kernel is told to look for no socket before it
// has asked the rules (net.ipv4.tcp_early_demux and udp_early_demux 0, for both families): what tunlb hands
// back then reaches its socket.
//
// # Ports
//
// The kernel's rules see no ports in any fragment, not even in the first one, unless connection tracking
// has reassembled the datagram before. A rule with a port would lose them, so UDP is led to the device as a whole from
// real servers, to VIPs with a UDP service and to masquerade addresses.
//
// Rules know the ports 1 to 65534; one with 65535 is an "invalid dport range". So TCP is led as a whole as well where
// 65535 is among the ports, and to a VIP of the box with exceptions for all ports but these (7429).
//
// # ICMPv6 is also neighbour discovery
//
// A rule cannot tell a neighbour solicitation from an echo request. With `lookup local` at preference 0 nothing
// is lost, as solicitations and advertisements are multicast or for an address of the box. With the rule moved,
// found by experiment:
//
//   - Multicast and link-local destinations are safe: the kernel looks for them on the receiving device only.
//   - `ipproto ipv6-icmp` before the local rule would steal the advertisements with which the servers answer the
//     box: it could no longer find them. That is why 7450 stands behind it (for IPv4 as well). ICMP errors from
//     a server reach tunlb all the same: they are for a client, or for a VIP.
//   - `to VIP ipproto ipv6-icmp` steals the unicast probes by which neighbours check that the VIP is still
//     there, and the answers to solicitations that the box has sent from the VIP. So the VIP becomes a proxy neighbour
//     on the devices that have it, with net.ipv6.conf.all.proxy_ndp on: the kernel delivers the
//     neighbour discovery of a packet to be forwarded to such an address locally, and forwards all else, Packet Too
//     Big and echo requests among it, to the TUN. (Linux 5.13 or a stable kernel of that time: older ones spoil the hop limit.)
//
// # Forwarding
//
// ip_forward and net.ipv6.conf.all.forwarding are switched on for the families in use. How they stood before
// is noted in the kernel itself by no-op rules:
//
//	7480                forwarding was off (the other notes count only with this one)
//	7481                net.ipv4.conf.all.accept_redirects was 0: the kernel sets 1 when forwarding ends
//	7482 iif DEV        forwarding was on for this device: the kernel switches all off
//	7483 iif DEV  (v6)  accept_ra was 1
//	7484          (v6)  net.ipv6.conf.all.proxy_ndp was 0
//	7485, 7486          net.ipv4.tcp_early_demux, udp_early_demux was 1 (these two, like 7484, count without 7480)
//
// A host that becomes an IPv6 router drops the default routes it has learnt from router advertisements and
// ignores further ones. So accept_ra becomes 2 on the devices with such a route. Devices that come later
// have the kernel's default. A setting that somebody else changes in the meantime is left alone. What does
// not come back: large receive offload of devices, which the kernel switches off for forwarding.
//
// # The device
//
// rp_filter 2 and accept_local 1, as clients' and the box's own addresses come in there. No IPv6 unless used; if it is, no
// link-local address (addr_gen_mode none) and so no router solicitations, no autoconfiguration. Two multicast
// listener reports, :: to ff02::16, are all that the kernel sends into the device of its own accord. The device should come
// down: a link-local address that it has already got stays.
//
// On a TAP tunlb is a host of its own (Silent), and the kernel none: no IPv6, and arp_ignore 8, since it would
// answer there for the addresses of its other devices. Both come before the device is set up. In a
// bridge that device is a mere port of it. An interface with a packet socket (Foreign) stays as it is.
//
// tunlb's addresses on such a segment must not be the box's as well (Absent), except on lo: the kernel would answer for
// them there, for those of IPv4 on whichever device they are, and would keep to itself what it sends to them. An
// interface of the switch must not be in a bridge (Alone): a packet socket sees frames and takes none away. Both are errors
// rather than mended: what is in the way may be what the administrator is connected by.
//
// # Neighbours
//
// Neighbours tells where the kernel would send packets for an address, so that somebody else can send a frame there: the way
// out of a box with interfaces of its own. It is a copy of the kernel's rules, routes, interfaces and neighbours, which nobody waits
// for. The kernel finds the neighbours' MACs; it is asked to with RTM_NEWNEIGH and NTF_USE, but never where the entry is the
// administrator's: that would take it from him.
//
// The copy is that of a router that knows a packet's destination, and no mark. Found by comparing it with the kernel's answers:
//
//   - A rule that depends on more (source, interface, protocol, ...) can't be heeded; Unheeded lists it if it matters.
//   - suppress_prefixlength suppresses no route that refuses (unreachable, blackhole, prohibit).
//   - The kernel looks into the local table first only once there has been a rule besides the three that it starts with: until then
//     the tables local and main of IPv4 are one, and the longest prefix counts. The copy has the local table first at all times.
//   - A host, unlike a router, leaves out IPv6 routers that do not answer. The copy does so among routes of one metric.
//   - The kernel loses what goes by an interface without carrier, unless ignore_routes_with_linkdown is set. The copy takes
//     another route to the same prefix if there is one.
//   - With an interface, IPv4's routes by it go without a message.
//   - Of next hops of one route the kernel takes another one than the copy does: their hashes differ.
//
// # Limits
//
// If the administrator's local rule stands behind
// 7440, 7441 and 7450 come first: the box's own connections to the servers' ports hang, and it finds no IPv6 neighbours.
//
// A UDP server on the box itself must be bound to its address: rules see no source otherwise. A VIP that is not the box's own
// must be routed to the box by the network. Two tunlbs in one namespace would lead packets to one device only:
// Clean, which comes before a start, refuses while the other one's device is there.
package kernel
