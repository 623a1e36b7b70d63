package policy

// Rates are a service's or a server's traffic per second, as the kernel estimates it. A plain value.
type Rates struct {
	Conns      uint64 `json:"conns"`
	InPackets  uint64 `json:"in_packets"`
	OutPackets uint64 `json:"out_packets"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
}

// EstimatePeriod is how often Table.Estimate is to be called, in seconds.
const EstimatePeriod = 2

// Rates are kept in fixed point as the kernel does, so that they round alike: bytes, of which there are many,
// with fewer bits behind the point.
const (
	rateBits      = 10
	rateBytesBits = 5
	// Each estimate has a weight of 1/4 against those before.
	rateWeightBits = 2
)

// meter is what services and servers have besides their counters: rates and where counting was set to zero.
// The zero value is ready.
type meter struct {
	zero Counters // as they were when they were set to zero
	last Counters // as they were at the last estimate
	// In fixed point, and never negative: they come near the last estimate, not past it.
	conns, inPackets, outPackets, inBytes, outBytes uint64
}

func (m *meter) estimate(now *Counters) {
	average(&m.conns, now.Conns-m.last.Conns, rateBits)
	average(&m.inPackets, now.InPackets-m.last.InPackets, rateBits)
	average(&m.outPackets, now.OutPackets-m.last.OutPackets, rateBits)
	average(&m.inBytes, now.InBytes-m.last.InBytes, rateBytesBits)
	average(&m.outBytes, now.OutBytes-m.last.OutBytes, rateBytesBits)
	m.last = *now
}

// average takes what was counted in a period into account. Rounding down keeps a rate from ever getting quite
// up to its estimate; that is how the kernel has it, too.
func average(rate *uint64, counted uint64, bits int) {
	estimate := counted << bits / EstimatePeriod
	*rate += uint64((int64(estimate) - int64(*rate)) >> rateWeightBits)
}

// Rates are the estimated ones.
func (m *meter) Rates() Rates {
	return Rates{
		Conns:      rounded(m.conns, rateBits),
		InPackets:  rounded(m.inPackets, rateBits),
		OutPackets: rounded(m.outPackets, rateBits),
		InBytes:    rounded(m.inBytes, rateBytesBits),
		OutBytes:   rounded(m.outBytes, rateBytesBits),
	}
}

// rounded gives whole numbers; an exact half is rounded down.
func rounded(rate uint64, bits int) uint64 { return (rate + 1<<(bits-1) - 1) >> bits }

// reset sets counting to zero at counters that go on. No rate jumps, since the next estimate begins here.
func (m *meter) reset(now *Counters) { *m = meter{zero: *now, last: *now} }

// Sub is what was counted since before.
func (c Counters) Sub(before Counters) Counters {
	return Counters{
		Conns:      c.Conns - before.Conns,
		InPackets:  c.InPackets - before.InPackets,
		OutPackets: c.OutPackets - before.OutPackets,
		InBytes:    c.InBytes - before.InBytes,
		OutBytes:   c.OutBytes - before.OutBytes,
	}
}

// Counted is Stats since the last Zero.
func (s *Service) Counted() Counters { return s.Stats.Sub(s.zero) }

// Counted is Stats since the service's last Zero.
func (s *Server) Counted() Counters { return s.Stats.Sub(s.zero) }

// Zero has Counted and Rates of the service and its servers begin anew, as ipvsadm -Z does. Stats go on, for
// those who watch them grow.
func (s *Service) Zero() {
	s.reset(&s.Stats)
	for _, server := range s.Servers {
		server.reset(&server.Stats)
	}
}

// Zero does so for all services.
func (t *Table) Zero() {
	for _, s := range t.services {
		s.Zero()
	}
}

// Estimate takes the traffic since the last call into Rates. To be called every EstimatePeriod seconds.
func (t *Table) Estimate() {
	for _, s := range t.services {
		s.estimate(&s.Stats)
	}
	for _, s := range t.registry.servers { // those that linger as well: they may come back
		if s != nil {
			s.estimate(&s.Stats)
		}
	}
}
