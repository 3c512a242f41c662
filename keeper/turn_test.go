package keeper

import (
	"testing"
	"time"
)

// As many as the limit have a turn at once, and the next one waits for the first that ends.
func TestTurns(t *testing.T) {
	dir := t.TempDir()
	var ends []func()
	for range 2 {
		end, err := takeTurn(dir, 2)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	third := make(chan func())
	go func() {
		end, err := takeTurn(dir, 2)
		if err != nil {
			t.Error(err)
		}
		third <- end
	}()
	select {
	case <-third:
		t.Fatal("a third has a turn")
	case <-time.After(50 * time.Millisecond):
	}
	ends[1]()
	end := <-third
	ends[0]()
	end()
	if end, err := takeTurn(dir, 1); err != nil {
		t.Error(err)
	} else {
		end()
	}
}
