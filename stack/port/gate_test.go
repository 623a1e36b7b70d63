package port

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestGateShutsOnce(t *testing.T) {
	g := newGate()
	if !g.enter() {
		t.Fatal("an open gate let nobody in")
	}
	g.shut()
	if g.enter() {
		t.Fatal("a shut gate let somebody in")
	}
	if isClosed(g.idle) {
		t.Fatal("idle with somebody inside")
	}
	g.leave()
	<-g.idle
	if g.enter() {
		t.Fatal("an idle gate let somebody in")
	}
}

func TestGateNobodyInsideWhenIdle(t *testing.T) {
	for range 200 {
		g := newGate()
		var inside atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for g.enter() {
					inside.Add(1)
					inside.Add(-1)
					g.leave()
				}
			})
		}
		g.shut()
		<-g.idle
		if n := inside.Load(); n != 0 {
			t.Fatalf("%d inside an idle gate", n)
		}
		wg.Wait()
	}
}
