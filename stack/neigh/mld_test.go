package neigh

import (
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// TestReports: each IPv6 address of ours has its group reported at once and then every minute, in the form
// that another implementation reads, to everybody: the servers' bridge, too, has to let questions through.
func TestReports(t *testing.T) {
	for _, inline := range []bool{false, true} {
		table := New(config(inline), 0)
		var want []tcpip.Address
		for _, l := range table.locals {
			if !is4(l.addr) {
				want = append(want, tcpip.AddrFrom16(solicitedNode(l.addr)))
			}
		}
		for _, now := range []time.Duration{0, reportGroup / 2, reportGroup, 2 * reportGroup} {
			table.Tick(now)
			var got []tcpip.Address
			for _, f := range drainAll(table) {
				if b := f.Bytes(); !isARP(&f) && b[ip6Next] == 0 {
					if f.Scope != Everywhere {
						t.Errorf("scope %v", f.Scope)
					}
					got = append(got, reported(t, b))
				}
			}
			if now == reportGroup/2 {
				if len(got) > 0 {
					t.Errorf("reported again after %v", now)
				}
			} else if !slices.Equal(got, want) {
				t.Errorf("at %v: %v, want %v", now, got, want)
			}
		}
	}
}

// reported checks a report and returns its group.
func reported(t *testing.T, frame []byte) tcpip.Address {
	t.Helper()
	ip := header.IPv6(frame[l3:])
	if !ip.IsValid(len(ip)) || ip.HopLimit() != 1 || ip.DestinationAddress() != tcpip.AddrFrom16(allRouters) {
		t.Fatalf("no valid packet to all routers: %x", frame)
	}
	if mac := packet.MAC(frame[packet.VnetLen:]); mac != (packet.MAC{0x33, 0x33, 0, 0, 0, 0x16}) {
		t.Errorf("to %v", mac)
	}
	options := frame[l3+header.IPv6MinimumSize:]
	if options[0] != uint8(header.ICMPv6ProtocolNumber) || options[1] != 0 || [4]byte(options[2:]) != [4]byte{5, 2, 0, 0} {
		t.Errorf("router alert: %x", options[:8])
	}
	icmp := options[8:]
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(icmp)))
	if checksum.Checksum(icmp, sum) != 0xffff {
		t.Errorf("wrong checksum: %x", icmp)
	}
	if icmp[0] != uint8(header.ICMPv6MulticastListenerV2Report) {
		t.Fatalf("type %d", icmp[0])
	}
	records := header.MLDv2Report(icmp[header.ICMPv6HeaderSize:]).MulticastAddressRecords()
	record, result := records.Next()
	if result != header.MLDv2ReportMulticastAddressRecordIteratorNextOk || record.RecordType() != header.MLDv2ReportRecordModeIsExclude {
		t.Fatalf("record %v: %x", result, icmp)
	}
	return record.MulticastAddress()
}
