package tunlb

import "github.com/tunlb/tunlb/tunlb/watch"

// Watch subscribes to the journeys of packets. The caller closes what it gets.
func (e *Engine) Watch(o watch.Options) *watch.Subscription { return watch.NewSubscription(o, nil) }
