"""A kernel's messages for many subscribers, each at its own pace."""
