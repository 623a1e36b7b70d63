package netns
import ("testing";"time";"fmt")
func TestZZ(t *testing.T) {
	slow := 0
	end := time.Now().Add(40*time.Second)
	n := 0
	for ; time.Now().Before(end) && slow < 3; n++ {
		a, b, err := pair("a", "b")
		if err != nil { t.Fatal(err) }
		sa, _ := a.Sniff("eth0"); sb, _ := b.Sniff("eth0")
		l, _ := b.Listen("tcp", ":80")
		for _, to := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
			at := time.Now()
			c, err := a.DialContext(t.Context(), "tcp", to)
			if err != nil { t.Fatal(err) }
			c.Close()
			if d := time.Since(at); d > 900*time.Millisecond {
				slow++
				t.Log(n, to, d)
				for _, s := range []*Sniffer{sa, sb} {
					s.Close()
					for _, p := range s.Packets() { t.Log(s.ns.Name(), p.Out, p.Time.Format("05.000000"), fmt.Sprintf("%x", p.Data[12:])) }
				}
			}
		}
		l.Close()
		go a.Close(); go b.Close()
	}
	t.Log(n, slow)
}
