"""What the Linux kernel says of AMD's GPUs: files of the amdgpu driver, no library."""

from __future__ import annotations

from pathlib import Path

from workers.devices import Device, DeviceKind, unknown

_MIB = 1024 * 1024
_DRM = Path("/sys/class/drm")
_VENDOR = "0x1002"


def gpus(drm: Path = _DRM) -> tuple[Device, ...]:
    """Return the GPUs in the order of their slots.

    Who holds their memory is not told: the kernel shows it only to the holder and to root.
    """
    cards = sorted((card / "device" for card in drm.glob("card[0-9]*") if card.name[4:].isdecimal()), key=_slot)
    found = [card for card in cards if _read(card / "vendor") == _VENDOR]
    return tuple(_gpu(f"rocm:{number}", card) for number, card in enumerate(found))


def _gpu(id_: str, card: Path) -> Device:
    name = _read(card / "product_name") or "AMD GPU"
    # As ROCR_VISIBLE_DEVICES spells it.
    uuid = f"GPU-{serial}" if (serial := _read(card / "unique_id")) else ""
    total, used = _read(card / "mem_info_vram_total"), _read(card / "mem_info_vram_used")
    if not (total.isdecimal() and used.isdecimal()):
        why = f"the amdgpu driver does not say how much memory it has ({card}/mem_info_vram_*)"
        return unknown(id_, DeviceKind.ROCM, why, name=name, uuid=uuid)
    return Device(
        id=id_,
        kind=DeviceKind.ROCM,
        total_mib=int(total) // _MIB,
        free_mib=max(0, int(total) - int(used)) // _MIB,
        name=name,
        uuid=uuid,
        foreign=None,
    )


def _slot(card: Path) -> str:
    """Return the PCI address, which the link of the card leads to."""
    return card.resolve().name


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):  # a failing GPU answers with an I/O error
        return ""
