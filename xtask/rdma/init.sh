#!/bin/sh
# The first process of a virtual machine with Soft-RoCE: sets up the network, makes the device, runs the tests it was
# told to, says so if they passed, and turns the machine off. The variables come from the kernel's command line.
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp

while read -r module; do
  insmod "/modules/$module" || echo "cannot load $module"
done < /modules/order

ip link set lo up
# Without a network card there is the dummy that its module makes.
ip link set "$NETDEV" mtu 4200
ip address add "$ADDRESS" dev "$NETDEV"
ip link set "$NETDEV" up
rdma link add rxe0 type rxe netdev "$NETDEV"
# The address becomes one of the device's a moment later.
sleep 0.5
echo "guest ready after $(cut -d' ' -f1 /proc/uptime) s"

# shellcheck disable=SC2046 # a list of words
if /bin/rdma-tests $(echo "$TESTS" | tr , ' '); then
  echo "guest tests passed"
fi
echo "guest done after $(cut -d' ' -f1 /proc/uptime) s"
dmesg | grep -E 'BUG:|WARNING:|Oops' || true
poweroff -f
