package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/stack/packet"
)

// split sorts what is claimed of one family: single ports, of which a packet's is looked up by a hash, and ranges, none
// of which overlap. Of neither is one there twice. What is neither TCP nor UDP nor has an address is left out; echo
// requests, which have no ports, are pingedOf's.
func split(claimed []packet.Endpoints, six bool) (single, ranges []packet.Endpoints) {
	for _, e := range claimed {
		e.Addr = plain(e.Addr)
		e.First, e.Last = e.Ports()
		switch {
		case !e.Addr.IsValid() || e.Addr.Is6() != six || e.Proto != packet.ProtoTCP && e.Proto != packet.ProtoUDP:
		case e.First == e.Last:
			single = append(single, e)
		case e.First < e.Last:
			ranges = append(ranges, e)
		}
	}
	slices.SortFunc(single, byPlace)
	slices.SortFunc(ranges, byPlace)
	return slices.Compact(single), join(ranges)
}

// join makes one of ranges that overlap, which the kernel refuses.
func join(sorted []packet.Endpoints) (joined []packet.Endpoints) {
	for _, e := range sorted {
		if n := len(joined) - 1; n >= 0 && joined[n].Addr == e.Addr && joined[n].Proto == e.Proto && e.First <= joined[n].Last {
			joined[n].Last = max(joined[n].Last, e.Last)
		} else {
			joined = append(joined, e)
		}
	}
	return joined
}

func byPlace(a, b packet.Endpoints) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// foreign are the claimed addresses of one family that are not the box's own, with the protocols: their later fragments, which
// show no port, are nobody else's.
func foreign(claim *packet.Claim, six bool) (places []packet.Endpoints) {
	for _, e := range claim.VIPs {
		known := e.Echo() || e.Proto == packet.ProtoTCP || e.Proto == packet.ProtoUDP
		e.Addr, e.First, e.Last = plain(e.Addr), 0, 0
		if known && e.Addr.IsValid() && e.Addr.Is6() == six && !slices.ContainsFunc(claim.Own, func(a netip.Addr) bool { return plain(a) == e.Addr }) {
			places = append(places, e)
		}
	}
	slices.SortFunc(places, byPlace)
	return slices.Compact(places)
}

// pingedOf are the addresses of one family whose echo requests are claimed.
func pingedOf(claim *packet.Claim, six bool) (pinged []netip.Addr) {
	for _, e := range claim.VIPs {
		if a := plain(e.Addr); e.Echo() && a.Is6() == six {
			pinged = append(pinged, a)
		}
	}
	slices.SortFunc(pinged, netip.Addr.Compare)
	return slices.Compact(pinged)
}

// ownOf are the box's own addresses of one family.
func ownOf(claim *packet.Claim, six bool) (own []netip.Addr) {
	for _, a := range claim.Own {
		if a = plain(a); a.IsValid() && a.Is6() == six {
			own = append(own, a)
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own)
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
