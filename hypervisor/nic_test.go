package hypervisor

import (
	"os"
	"testing"
)

func TestCheckNIC(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, test := range []struct {
		vcpus, taps, vhosts int
		vhost, good         bool
	}{
		{vcpus: 1, good: true},
		{vcpus: 1, vhost: true, good: true},
		{vcpus: 1, taps: 1, good: true},
		{vcpus: 1, taps: 2},
		{vcpus: 1, taps: 1, vhosts: 1},
		{vcpus: 1, taps: 1, vhosts: 1, vhost: true, good: true},
		{vcpus: 1, taps: 1, vhost: true},
		{vcpus: 1, vhosts: 1, vhost: true},
		{vcpus: 4, taps: 4, good: true},
		{vcpus: 4, taps: 1},
		{vcpus: 4, taps: 4, vhosts: 3, vhost: true},
		{vcpus: 64, taps: 8, good: true},
		{vcpus: 64, taps: 64},
	} {
		var nic NIC
		for range test.taps {
			nic.Tap = append(nic.Tap, null)
		}
		for range test.vhosts {
			nic.VHost = append(nic.VHost, null)
		}
		if err := (Machine{VCPUs: test.vcpus, VHost: test.vhost}).checkNIC(nic); (err == nil) != test.good {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
