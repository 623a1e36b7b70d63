package labnet

import (
	"strings"
	"testing"
)

// drCapture is one request through tunlb, on a TAP, by direct routing; the answer bypasses it.
func drCapture(client, vip string, partial bool) []Point {
	const psh = 0x18
	request := func(out bool, src, dst MAC) Packet {
		return framed(captured{out, true, partial, protoTCP, client, vip, 64, 1000, 2000, psh, "GET / HTTP/1.1\r\n\r\n"}.packet(), src, dst)
	}
	answer := func(out bool) Packet {
		return framed(captured{out, true, partial, protoTCP, vip, client, 64, 2000, 1018, psh, "HTTP/1.1 200 OK\r\n\r\nrs2"}.packet(), macRS2, macClient)
	}
	tap := func(p Packet) Packet {
		p.Device = true
		return p
	}
	return []Point{
		{"client eth0", []Packet{request(true, macClient, macTunlb), answer(false)}},
		{"tunlb0", []Packet{tap(request(true, macClient, macTunlb)), tap(request(false, macTunlb, macRS2))}},
		{"rs2 eth0", []Packet{request(false, macTunlb, macRS2), answer(true)}},
	}
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name   string
		points []Point
		names  map[MAC]string
		want   string
	}{
		{"IPv4 DR", drCapture("203.0.113.7:40000", "203.0.113.22:80", false), cast, `
REQUEST      FROM        TO      SOURCE                 DESTINATION        TTL  CHECKSUM
client eth0  client  ->  tunlb   203.0.113.7:40000  ->  203.0.113.22:80    64   0xb0b2    valid
tunlb0 in    client  ->  tunlb   203.0.113.7:40000  ->  203.0.113.22:80    64   0xb0b2    valid
tunlb0 out   tunlb*  ->  rs2*    203.0.113.7:40000  ->  203.0.113.22:80    64   0xb0b2    valid
rs2 eth0     tunlb   ->  rs2     203.0.113.7:40000  ->  203.0.113.22:80    64   0xb0b2    valid

ANSWER       FROM        TO      SOURCE                 DESTINATION        TTL  CHECKSUM
rs2 eth0     rs2     ->  client  203.0.113.22:80    ->  203.0.113.7:40000  64   0x51c6    valid
client eth0  rs2     ->  client  203.0.113.22:80    ->  203.0.113.7:40000  64   0x51c6    valid

* changed on the way from the hop above
The answer does not pass tunlb0.
`},
		{"IPv6 DR, offloaded, a MAC without a name", drCapture("[2001:db8:113::7]:40000", "[2001:db8:113::22]:80", true),
			map[MAC]string{macClient: "client", macRS2: "rs2"}, `
REQUEST      FROM                    TO                 SOURCE                       DESTINATION              TTL  CHECKSUM
client eth0  client              ->  02:00:00:00:00:01  [2001:db8:113::7]:40000  ->  [2001:db8:113::22]:80    64   0x5ded    partial
tunlb0 in    client              ->  02:00:00:00:00:01  [2001:db8:113::7]:40000  ->  [2001:db8:113::22]:80    64   0x5ded    partial
tunlb0 out   02:00:00:00:00:01*  ->  rs2*               [2001:db8:113::7]:40000  ->  [2001:db8:113::22]:80    64   0x5ded    partial
rs2 eth0     02:00:00:00:00:01   ->  rs2                [2001:db8:113::7]:40000  ->  [2001:db8:113::22]:80    64   0x5ded    partial

ANSWER       FROM                    TO                 SOURCE                       DESTINATION              TTL  CHECKSUM
rs2 eth0     rs2                 ->  client             [2001:db8:113::22]:80    ->  [2001:db8:113::7]:40000  64   0x5df1    partial
client eth0  rs2                 ->  client             [2001:db8:113::22]:80    ->  [2001:db8:113::7]:40000  64   0x5df1    partial

* changed on the way from the hop above
The answer does not pass tunlb0.
`},
		{"NAT, over a TUN", natCapture("198.51.100.7:40000", "203.0.113.22:80", "192.168.0.11:8080", "198.51.100.8:40000", false)[2:3], nil, `
REQUEST     FROM    TO  SOURCE                  DESTINATION          TTL  CHECKSUM
tunlb0 in               198.51.100.7:40000  ->  203.0.113.22:80      63   0xc27f    valid
tunlb0 out              198.51.100.7:40000  ->  192.168.0.11*:8080*  62*  0x1ea3*   valid

ANSWER      FROM    TO  SOURCE                  DESTINATION          TTL  CHECKSUM
tunlb0 in               192.168.0.11:8080   ->  198.51.100.7:40000   63   0xbfb6    valid
tunlb0 out              203.0.113.22*:80*   ->  198.51.100.7:40000   62*  0x6393*   valid

* changed on the way from the hop above
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, err := Trace(c.points)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := j.Frames(&b, c.names, false); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
		})
	}
}
