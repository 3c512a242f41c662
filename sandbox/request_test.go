package sandbox

import (
	"encoding/json"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEncodeWith(t *testing.T) {
	for _, test := range []struct{ env, want []string }{
		{nil, []string{"HOME=/home"}},
		{[]string{"A=b"}, []string{"A=b", "HOME=/home"}},
		{[]string{"HOME=/kept", "A=HOME="}, nil},
		{[]string{"HOME=", "HOME=/last"}, nil},
		{[]string{"HOME=", "A=b"}, []string{"A=b", "HOME=/home"}},
		{[]string{"HOME=/first", "HOME="}, []string{"HOME=/home"}},
	} {
		process := &specs.Process{Args: []string{"HOME=", "x"}, Env: test.env, Terminal: true, User: specs.User{UID: 7}}
		text, program, err := encodeWith(process, specs.Spec{Process: process, Hostname: "HOME="})
		if err != nil {
			t.Fatal(err)
		}
		if program.Command != "HOME=" || !program.Terminal || (program.Home != nil) != (test.want != nil) {
			t.Errorf("%q: the agent knows %v", test.env, program)
		}
		if home := program.Home; home != nil {
			text = slices.Concat(text[:home.Offset], []byte("/home"), text[home.Offset:])
			if home.Uid != 7 {
				t.Errorf("%q: the home of %d is wanted", test.env, home.Uid)
			}
		}
		var got specs.Spec
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q: %v in %s", test.env, err, text)
		}
		want := test.want
		if want == nil {
			want = test.env
		}
		if !slices.Equal(got.Process.Env, want) {
			t.Errorf("%q becomes %q, want %q", test.env, got.Process.Env, want)
		}
	}
	if _, _, err := encodeWith(&specs.Process{}, nil); err == nil {
		t.Error("a process without args was taken")
	}
}
