package oci

import (
	"encoding/json"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestStateJSON(t *testing.T) {
	state := State{
		Version: "1.0.2", ID: "c1", Pid: 12, Status: specs.StateRunning, Bundle: "/b", Rootfs: "/b/rootfs",
		Created: time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC), Annotations: map[string]string{"k": "v"}, Owner: "root",
	}
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	// As runc 1.1 prints it.
	want := `{"ociVersion":"1.0.2","id":"c1","pid":12,"status":"running","bundle":"/b","rootfs":"/b/rootfs",` +
		`"created":"2024-05-06T07:08:09.123456789Z","annotations":{"k":"v"},"owner":"root"}`
	if string(raw) != want {
		t.Errorf("got %s\nwant %s", raw, want)
	}
	raw, err = json.Marshal(state.Hook())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"ociVersion":"1.0.2","id":"c1","status":"running","pid":12,"bundle":"/b","annotations":{"k":"v"}}`; string(raw) != want {
		t.Errorf("got %s\nwant %s", raw, want)
	}
}
