package qmp

import (
	"encoding/json"
	"slices"
	"time"
)

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	Data json.RawMessage // nil if the event has none
	Time time.Time
}

// eventQueue is how many events a subscriber can be behind.
const eventQueue = 64

type subscription struct {
	names  []string
	events chan Event
}

// Subscribe delivers the named events, or all without names, from now on. The channel is closed when the session ends,
// after cancel, and when the reader is more than 64 events behind: a lost event is never passed over in silence, and
// no reader can hold up commands or fill the memory.
func (c *Client) Subscribe(names ...string) (events <-chan Event, cancel func()) {
	s := &subscription{names: names, events: make(chan Event, eventQueue)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscriptions[s] = struct{}{}
	if c.err != nil {
		c.unsubscribe(s)
	}
	return s.events, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unsubscribe(s)
	}
}

// unsubscribe is called with mu held.
func (c *Client) unsubscribe(s *subscription) {
	if _, ok := c.subscriptions[s]; ok {
		delete(c.subscriptions, s)
		close(s.events)
	}
}

func (c *Client) publish(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subscriptions {
		if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
			continue
		}
		select {
		case s.events <- e:
		default:
			c.unsubscribe(s)
		}
	}
}
